"""Which run a training or an evaluation logs to."""
