"""This process's connection to its session: ring, agent, what the agent publishes."""
