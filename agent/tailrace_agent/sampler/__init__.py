"""The system monitor: sources, their guards, and the sampler that reads them in turn."""
