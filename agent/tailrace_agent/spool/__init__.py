"""What waits on disk."""
