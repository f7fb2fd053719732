"""Programs that measure traffic, time and memory; `experiments/` explains."""
