"""Words of others and of ours, made fit to be shown."""
