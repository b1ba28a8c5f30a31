"""Files and directories: whose they are, and whole or not at all."""
