"""The system monitor: sources, their guards, and the sampler that asks them in turn."""
