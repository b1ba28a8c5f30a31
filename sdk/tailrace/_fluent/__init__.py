"""MLflow's own names, handed through: what tailrace does not do differently, it leaves to MLflow."""
