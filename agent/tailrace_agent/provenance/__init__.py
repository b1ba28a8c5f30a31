"""Where a run comes from: git, machine, packages."""
