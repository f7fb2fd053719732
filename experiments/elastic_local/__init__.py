"""Runs with local updates, resumed on another number of workers."""
