"""What trainer and agent share: rings, records, session, status."""
