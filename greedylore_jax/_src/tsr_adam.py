"""TSR-Adam: an optimizer whose moments live where the gradients are sent."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax

from greedylore_jax._src import checks, links
from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf
from greedylore_jax._src.engine.policy import (
  Policy,
  PolicyOptions,
  WeightDimensionNumbers,
)
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.transform import compress_gradients
from greedylore_jax._src.types import Array, AxisName, Function, Params, Updates
from greedylore_jax.compressors import tsr
from greedylore_jax.compressors.compressor import Compressor


class TSRAdamState(NamedTuple):
  """State of the projected part of `tsr_adam`; equal on all workers.

  Attributes:
    compress: a `CompressState` without errors, which holds the bases.
    adam: moments of the cores, [k, r, r] for a compressed leaf, and of the
      gradients of the others.
  """

  compress: CompressState
  adam: optax.ScaleByAdamState


def tsr_adam(
  learning_rate: float | Callable[[Array], Any],
  rank: int,
  axis_name: AxisName,
  *,
  embedding_rank: int | None = None,
  update_interval: int = 100,
  embedding_update_interval: int = 2,
  embeddings: str = 'embed',
  oversampling: int = 5,
  power_iterations: int = 1,
  average: Literal['gradients', 'bases'] = 'gradients',
  rotate_moments: bool = False,
  scale: float = 1.0,
  clip_norm: float | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  min_compression_rate: float = 1.0,
  weight_dimension_numbers: WeightDimensionNumbers = None,
  seed: int = 0,
) -> optax.GradientTransformation:
  """TSR-Adam: local gradients in, steps of Adam on r x r cores out.

  Only the cores C = mean_i U^T G_i V are sent, and both moments are of their
  size; with m, v those of Adam and bias correction,

    D = m / (sqrt(v) + eps),   W <- W - learning_rate (scale U D V^T + decay W).

  What is outside of the bases is not sent at all: there is no error feedback.
  `TSR` describes the refresh. Leaves that are not matrices are averaged dense
  and take plain steps of Adam. This is the optimizer, not a link before one.

  Args:
    learning_rate: a number or a schedule.
    rank: r, of the cores. Lower sends and keeps less and sees less.
    axis_name: mesh axis (or tuple of axes) of the workers; None for one.
    embedding_rank: r of the leaves that `embeddings` matches; None treats them
      like the others, and the other arguments of embeddings have no effect.
    update_interval: steps from one refresh of the bases to the next.
    embedding_update_interval: the same for embeddings.
    embeddings: a regular expression, searched for in paths.
    oversampling: see `TSR`.
    power_iterations: see `TSR`.
    average: see `TSR`; 'bases' is the paper's way.
    rotate_moments: carry the moments into the new bases at a refresh, m as
      A m B with A = U_new^T U_old and B = V_old^T V_new, and v with the squares
      of A and B. The paper leaves them as they are.
    scale: of the steps of compressed leaves. Higher steps further.
    clip_norm: largest global norm of what is sent, before the moments; None is
      off.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: floor of the denominator.
    weight_decay: of leaves with at least two axes.
    min_compression_rate: as for `compress_gradients`.
    weight_dimension_numbers: as for `compress_gradients`.
    seed: of the sketches.

  Returns:
    An `optax.GradientTransformation`. Its `update` needs the parameters if
    there is weight decay. If anything received is not finite, the updates are
    NaN and the moments stay as they were: to skip such a step, chain
    `optax.apply_if_finite(optax.identity(), n)` behind it.

  Raises:
    ValueError, TypeError: as `compress_gradients`.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.tsr_adam(
    ...     0.01, rank=256, axis_name='data', embedding_rank=64, scale=0.5)

  References:
    TSR-Adam, arXiv 2602.08007 (2026), Algorithm 1.
  """
  method = functools.partial(
    tsr.TSR,
    oversampling=oversampling,
    power_iterations=power_iterations,
    average=average,
  )
  rules: list[tuple[str, Compressor]] = [('', method(rank, update_interval))]
  checks.check_integer('embedding_update_interval', embedding_update_interval)
  checks.check_nonnegative('scale', scale)
  if embedding_rank is not None:
    checks.check_integer('embedding_rank', embedding_rank)
    of_embeddings = method(embedding_rank, embedding_update_interval)
    rules.insert(0, (embeddings, of_embeddings))
  options = PolicyOptions(
    error_feedback=False,
    min_compression_rate=min_compression_rate,
    weight_dimension_numbers=weight_dimension_numbers,
  )
  on_cores = _AdamOnCores(
    send=compress_gradients(rules, axis_name, seed=seed, **options),
    policy=Policy.of(rules, **options),
    clip=links.clipping(clip_norm),
    adam=links.adam(b1, b2, eps),
    rotate_moments=rotate_moments,
    scale=scale,
  )
  return links.optimizer(on_cores, weight_decay, learning_rate)


@dataclasses.dataclass(frozen=True)
class _AdamOnCores:
  """Local gradients in, scale U D V^T of their mean out."""

  send: optax.GradientTransformationExtraArgs
  policy: Policy
  clip: optax.GradientTransformation
  adam: optax.GradientTransformation
  rotate_moments: bool
  scale: float

  def init(self, params: Params) -> TSRAdamState:
    """Bases and moments before the first step."""
    sent = self.send.init(params)
    leaves = self.policy.leaves(params)
    cores = leaf_lib.map_leaves(_core, leaves, params, sent.compressor_state)
    return TSRAdamState(sent, self.adam.init(cores))

  def update(
    self,
    updates: Updates,
    state: TSRAdamState,
    params: Params = None,
    **extra: Any,
  ) -> tuple[Updates, TSRAdamState]:
    """Sends the cores, and takes a step of Adam on them."""
    leaves = self.policy.leaves(updates)
    means, sent = self.send.update(updates, state.compress, params, **extra)
    bases, before = sent.compressor_state, state.compress.compressor_state
    moments = state.adam
    if self.rotate_moments:
      rotated: Function = lambda turn, moment: leaf_lib.map_leaves(
        functools.partial(_rotated, turn), leaves, moment, before, bases
      )
      moments = moments._replace(
        mu=rotated(links.turned, moments.mu),
        nu=rotated(links.turned_squares, moments.nu),
      )
    cores = leaf_lib.map_leaves(_core, leaves, means, bases)
    cores, _ = self.clip.update(cores, optax.EmptyState())
    steps, moments = self.adam.update(cores, moments)
    # A step that is not finite is not counted and moves nothing.
    finite = sent.count != state.compress.count
    moments = links.keep_unless(finite, moments, state.adam)
    lifted = functools.partial(_lifted, self.scale)
    steps = leaf_lib.map_leaves(lifted, leaves, steps, bases)
    steps = links.nan_unless(finite, steps, means)
    return steps, TSRAdamState(sent, moments)


def _core(leaf: Leaf, mean: Array, state: Any) -> Array:
  """C in the place of a compressed leaf; the mean of any other."""
  is_compressed = isinstance(leaf, CompressedLeaf)
  return state.core if is_compressed else leaf_lib.widened(mean)


def _lifted(scale: float, leaf: Leaf, d: Array, state: Any) -> Array:
  """Scale U D V^T in the place of a core D."""
  if not isinstance(leaf, CompressedLeaf):
    return d
  return scale * leaf.matrices.join(state.u @ d @ state.v.mT)


def _rotated(
  turn: Function, leaf: Leaf, moment: Array, old: Any, new: Any
) -> Array:
  """A moment in new bases, if they are not the old ones."""
  if not isinstance(leaf, CompressedLeaf):
    return moment
  rows = turn(moment, new.u.mT @ old.u)
  both = turn(rows.mT, new.v.mT @ old.v).mT
  return jnp.where(jnp.any(new.u != old.u), both, moment)
