"""A simulator of the whole path: see docs/reliability.md, "The simulator"."""
