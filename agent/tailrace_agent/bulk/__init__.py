"""Many points at once into MLflow: what is said to the route for it, and how MLflow's tables take it."""
