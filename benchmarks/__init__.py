"""Measured comparisons; each module prints a table and says how it measured."""
