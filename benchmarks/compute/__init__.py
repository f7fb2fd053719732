"""What compression costs a worker: time, memory and compilation."""
