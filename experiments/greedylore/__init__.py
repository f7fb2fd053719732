"""Where GreedyLore stands, and why."""
