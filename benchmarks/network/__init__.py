"""Training on simulated hosts whose links have a chosen rate."""
