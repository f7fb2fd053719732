"""Transformations that have their compressor in them already."""

from typing import Any
from typing import Literal

import optax

from greedylore_jax._src import transform as _compress
from greedylore_jax._src.engine import feedback as _feedback
from greedylore_jax._src.wire import worker_axes as _axes
from greedylore_jax.compressors import dense
from greedylore_jax.compressors import greedylore as _greedylore


def greedylore(
  rank: int,
  axis_name: _axes.AxisName,
  *,
  update_interval: int = 200,
  start_step: int = 0,
  probes: int | Literal['independent'] = 4,
  error_feedback: _feedback.Kind = True,
  min_compression_rate: float = 1.0,
  weight_dimension_numbers: Any = None,
  error_dtype: Any = None,
  factor_dtype: Any = None,
  stagger: bool = False,
  share_decompositions: bool = False,
  seed: int = 0,
) -> optax.GradientTransformation:
  """GreedyLore as a link of an optax chain: local gradients in, their mean out.

  Short for `compress_gradients(GreedyLore(rank, update_interval, probes),
  axis_name, ...)`; see `GreedyLore` for the method and its knobs and
  `compress_gradients` for the others, the returned state and the errors.

  A matrix of a x b numbers (a <= b) sends a * probes + rank * b of them in a
  compressed step, a * b in a refresh (every `update_interval` steps) and in
  each of the first `start_step` steps. `plan` adds this up for a model.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = optax.chain(
    ...     gl.greedylore(rank=32, axis_name='data'),
    ...     optax.clip_by_global_norm(1.0),
    ...     optax.adamw(3e-4),
    ... )

  References:
    GreedyLore, arXiv 2507.08784 (2025).
  """
  return _compress.compress_gradients(
    _greedylore.GreedyLore(rank, update_interval, probes),
    axis_name,
    start_step=start_step,
    error_feedback=error_feedback,
    min_compression_rate=min_compression_rate,
    weight_dimension_numbers=weight_dimension_numbers,
    error_dtype=error_dtype,
    factor_dtype=factor_dtype,
    stagger=stagger,
    share_decompositions=share_decompositions,
    seed=seed,
  )


def average_gradients(
  axis_name: _axes.AxisName,
) -> optax.GradientTransformation:
  """The dense baseline in the same place: every gradient is sent whole.

  Args:
    axis_name: mesh axis (or tuple of axes) of the workers; None for one.

  Returns:
    An `optax.GradientTransformation`; update = mean_i G_i, by one all-reduce
    per dtype.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = optax.chain(gl.average_gradients('data'), optax.sgd(0.1))
  """
  return _compress.compress_gradients(dense.Dense(), axis_name)
