"""Artifacts: captured at the call, written in the background."""
