"""One run, from configuration to summary."""
