"""MLflow's server with one route more, which takes points by the ten thousand: `mlflow server --app-name tailrace`."""
