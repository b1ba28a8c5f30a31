"""What users pass, as what can travel: floats and strings."""
