"""The runs of a process: how one starts, which is active, how it ends."""
