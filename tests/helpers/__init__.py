"""What many tests need: servers, users, trackers, every public call."""
