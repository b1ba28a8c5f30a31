"""Runs read back from MLflow: search, history, comparison, archives."""
