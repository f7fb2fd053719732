"""A config-driven trainer around greedylore_jax: `python -m train`."""
