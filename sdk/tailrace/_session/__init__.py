"""This process's connection to its session: ring, agent, what it is told."""
