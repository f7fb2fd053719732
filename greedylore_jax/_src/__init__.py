"""The library. Users import from `greedylore_jax`."""
