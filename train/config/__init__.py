"""A configuration: its keys, and how it is read."""
