"""Where rows go: the interface, MLflow, a store in memory."""
