"""A training that a file describes: `train_from_config`."""
