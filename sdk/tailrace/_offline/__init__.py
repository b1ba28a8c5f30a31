"""A run with tracking off."""
