"""Very many steps, kills, processes and damaged files."""
