"""What optimizers share: links of a chain, turned moments, skipped steps."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, PyTree, Updates


def clipping(norm: Any) -> optax.GradientTransformation:
  """Clips by the global norm; None is off.

  An array is not checked: `optax.inject_hyperparams` passes one.
  """
  if norm is None:
    return optax.identity()
  if not isinstance(norm, jax.Array):
    checks.check_positive('clip_norm', norm)
  return optax.clip_by_global_norm(norm)


def weight_decay(rate: Any) -> optax.GradientTransformation:
  """Decay of leaves with at least two axes; the number 0 is off.

  0 in an array, as `optax.inject_hyperparams` passes it, may change later.
  """
  checks.check_nonnegative('weight_decay', rate)
  if isinstance(rate, int | float) and not rate:
    return optax.identity()
  is_matrix = lambda params: jax.tree.map(lambda x: jnp.ndim(x) >= 2, params)
  return optax.add_decayed_weights(rate, is_matrix)


def adam(
  b1: Any, b2: Any, eps: Any, *, amsgrad: bool = False
) -> optax.GradientTransformation:
  """Steps from the moments of Adam, or of AMSGrad."""
  checks.check_nonnegative('b1', b1, below=1)
  checks.check_nonnegative('b2', b2, below=1)
  checks.check_nonnegative('eps', eps)
  make = optax.scale_by_amsgrad if amsgrad else optax.scale_by_adam
  return make(b1, b2, eps)


def descent(rate: Any) -> optax.GradientTransformation:
  """Steps downhill, by a learning rate or a schedule of them."""
  if not callable(rate):
    checks.check_nonnegative('learning_rate', rate)
  return optax.scale_by_learning_rate(rate)


def optimizer(
  first: Any, weight_decay_rate: Any, learning_rate: Any
) -> optax.GradientTransformation:
  """A chain of what turns local gradients into steps, decay, and the rate.

  Args:
    first: has the `init` and the `update` of a transformation.
    weight_decay_rate: see `weight_decay`.
    learning_rate: a number or a schedule.
  """
  return optax.chain(
    optax.GradientTransformationExtraArgs(first.init, first.update),
    weight_decay(weight_decay_rate),
    descent(learning_rate),
  )


def turned(moment: Array, rotation: Array) -> Array:
  """The first moment R u in a new basis.

  Args:
    moment: u in the old basis, [k, s, n].
    rotation: R = Q_new^T Q_old, [k, r, s].
  """
  return rotation @ moment


def turned_squares(moment: Array, rotation: Array) -> Array:
  """The second moment (R * R) v in a new basis; the same shapes as `turned`.

  What is outside of the old basis gets the mean of v: with 0, the next steps
  would be too long, as bias correction is over.
  """
  shares = rotation**2
  outside = jnp.maximum(1 - shares.sum(axis=2, keepdims=True), 0)
  squares: Array = shares @ moment + outside * moment.mean(1, keepdims=True)
  return squares


def nan_unless(finite: Array, steps: Updates, means: Updates) -> Updates:
  """Steps in the dtypes of the means; NaN if the step is to be skipped."""
  return jax.tree.map(
    lambda step, mean: jnp.where(finite, step, jnp.nan).astype(mean.dtype),
    steps,
    means,
  )


def keep_unless(finite: Array, new: PyTree, old: PyTree) -> PyTree:
  """The new moments; the old ones if the step is to be skipped."""
  return jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, old)
