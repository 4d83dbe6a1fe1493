"""Training: all seeds of a run in one jitted program."""
