"""How long the averaging of given gradients takes: ours, and PyTorch's."""
