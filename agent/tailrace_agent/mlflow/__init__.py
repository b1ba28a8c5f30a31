"""All that opens or speaks to MLflow."""
