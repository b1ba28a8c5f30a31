"""Settings and what they are made of: rules, units, URIs, files."""
