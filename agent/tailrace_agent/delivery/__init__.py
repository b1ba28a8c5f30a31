"""Everything reaches MLflow exactly once: run book, batches, retries, uploads."""
