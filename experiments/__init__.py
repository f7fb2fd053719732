"""Studies: the programs of each, next to what they found."""
