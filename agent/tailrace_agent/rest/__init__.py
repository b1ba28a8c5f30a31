"""A plain MLflow server, spoken to without importing MLflow."""
