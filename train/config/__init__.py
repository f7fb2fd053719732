"""A configuration: its keys, and how files and command lines are read."""
