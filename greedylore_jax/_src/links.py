"""Links of an optimizer's chain that an argument turns on."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def clipping(norm: Any) -> optax.GradientTransformation:
  """Clips by the global norm; None is off."""
  return optax.identity() if norm is None else optax.clip_by_global_norm(norm)


def weight_decay(rate: Any) -> optax.GradientTransformation:
  """Decay of leaves with at least two axes; the number 0 is off.

  0 in an array, as `optax.inject_hyperparams` passes it, may change later.
  """
  if isinstance(rate, int | float) and not rate:
    return optax.identity()
  is_matrix = lambda params: jax.tree.map(lambda x: jnp.ndim(x) >= 2, params)
  return optax.add_decayed_weights(rate, is_matrix)
