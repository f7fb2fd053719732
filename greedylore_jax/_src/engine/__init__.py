"""One step of all leaves."""
