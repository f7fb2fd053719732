"""Rounds of communication, and the only code that communicates."""
