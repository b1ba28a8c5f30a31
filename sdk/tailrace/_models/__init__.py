"""Models: copied at the call, saved in the background."""
