"""Where an agent runs: a process of its own, or threads of the training process."""
