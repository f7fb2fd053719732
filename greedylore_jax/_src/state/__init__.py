"""Where the state is on a mesh, in a checkpoint, and back."""
