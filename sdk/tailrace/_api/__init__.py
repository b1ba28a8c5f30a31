"""What users call: tracker, run, and their parts."""
