"""Runs of very many steps, and runs that are killed very often."""
