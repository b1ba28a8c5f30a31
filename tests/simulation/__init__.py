"""A simulator of the whole path: see docs/architecture/simulator.md."""
