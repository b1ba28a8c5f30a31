"""Rings in, MLflow out."""
