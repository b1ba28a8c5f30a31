"""The loop for PyTorch: `Trainer`, and what it is made of."""
