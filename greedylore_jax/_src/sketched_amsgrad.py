"""SketchedAMSGrad: AMSGrad on the entries that a count sketch finds."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import links
from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf
from greedylore_jax._src.engine.policy import Policy, PolicyOptions
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.transform import compress_gradients
from greedylore_jax._src.types import (
  Array,
  AxisName,
  DType,
  Params,
  PyTree,
  Updates,
)
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors.count_sketch import CountSketch

_NOTHING = optax.MaskedNode()


class SketchedAMSGradState(NamedTuple):
  """State of the first link of `sketched_amsgrad`.

  Attributes:
    compress: a `CompressState`, which holds the errors of the workers.
    moments: those of AMSGrad, in the shapes of the parameters and at least
      float32; equal on all workers.
  """

  compress: CompressState
  moments: optax.ScaleByAmsgradState


def sketched_amsgrad(
  learning_rate: float | Callable[[Array], Any],
  density: float,
  axis_name: AxisName,
  *,
  columns: float = 1.0,
  rows: int = 3,
  clip_norm: float | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  seed: int = 0,
  **options: Unpack[PolicyOptions],
) -> optax.GradientTransformation:
  """SketchedAMSGrad: local gradients in, steps of AMSGrad out.

  With G_i the gradient of worker i, E_i its error, and the moments of before,
  which are equal on all workers,

    H_i = G_i + E_i
    J = the entries of largest |mean_i H_i| / (sqrt(w) + eps), as estimated from
        the mean count sketch of H_i / (sqrt(w) + eps)
    g = mean_i H_i on J, else 0;   E_i <- H_i - (H_i on J)
    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
    w <- max(w, v / (1 - b2^t))
    W <- W - learning_rate (m / (1 - b1^t) / (sqrt(w) + eps) + decay W).

  So entries compete by the steps that they would cause, and `CountSketch` says
  how they are sent. Leaves that are not matrices are averaged dense.

  What this means for error feedback. Errors are kept of gradients, before the
  moments, and an entry that is not sent counts as g = 0 in m and v. Over p
  steps without it, H gathers p gradients: m then receives their sum, as if each
  had been sent, and v receives H^2 once, which for gradients that are mostly
  noise is the sum of their squares. Moments of J alone would instead see
  gradients that are p times too large at v, and steps p times too small. The
  maximum w keeps a step from growing while v decays between two sendings.

  In the paper every worker keeps a momentum, sketches it with its error, and
  divides the estimate by sqrt(w) afterwards, which multiplies the collisions in
  small entries. Here m is taken from what was received, so that no worker needs
  its own, a checkpoint resumes exactly on any number of workers, and H is
  divided before it is sketched, which all can do as w is equal.

  Args:
    learning_rate: a number or a schedule.
    density: share of the entries that is sent. Lower sends less and
      approximates worse.
    axis_name: mesh axis (or tuple of axes) of the workers; None for one.
    columns: see `CountSketch`.
    rows: see `CountSketch`.
    clip_norm: largest global norm of what was received, before the moments;
      None is off.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: floor of the denominator.
    weight_decay: of leaves with at least two axes.
    seed: of the hashes.
    **options: see `PolicyOptions`. `error_feedback=False` forgets what is not
      sent, for ablations.

  Returns:
    An `optax.GradientTransformation`. Its `update` needs the parameters if
    there is weight decay. If anything received is not finite, the updates are
    NaN and the moments stay as they were: to skip such a step, chain
    `optax.apply_if_finite(optax.identity(), n)` behind it.

  Raises:
    ValueError, TypeError: as `compress_gradients`.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.sketched_amsgrad(1e-3, density=0.02, axis_name='data')

  References:
    SketchedAMSGrad, arXiv 2210.07454 (2022). Moments of what error feedback
    delivers: Li, Karimi, Li, arXiv 2205.05632 (2022), Algorithm 2.
  """
  method = _LargestSteps(rows=rows, columns=columns, density=density)
  on_entries = _AMSGradOnEntries(
    send=compress_gradients(method, axis_name, seed=seed, **options),
    policy=Policy.of(method, **options),
    clip=links.clipping(clip_norm),
    amsgrad=links.adam(b1, b2, eps, amsgrad=True),
    eps=eps,
  )
  return links.optimizer(on_entries, weight_decay, learning_rate)


@dataclasses.dataclass(frozen=True)
class _LargestSteps(CountSketch):
  """A count sketch whose entries compete by the steps that they would cause.

  Its state is sqrt(w) + eps, [k, a, b], which the optimizer hands in.
  """

  def init(self, k: int, a: int, b: int, dtype: DType) -> Array:
    """Ones, which compare entries by their size."""
    return jnp.ones((k, a, b), dtype)

  def compress(self, h: Array, state: Array, key: Array) -> Rounds:
    """As `CountSketch`, which sketches H / (sqrt(w) + eps)."""
    output, sent = yield from self.send_largest(h, h / state, key)
    return output, sent, state


@dataclasses.dataclass(frozen=True)
class _AMSGradOnEntries:
  """Local gradients in, m / (sqrt(w) + eps) out."""

  send: optax.GradientTransformationExtraArgs
  policy: Policy
  clip: optax.GradientTransformation
  amsgrad: optax.GradientTransformation
  eps: float

  def init(self, params: Params) -> SketchedAMSGradState:
    """Errors and moments before the first step."""
    moments = self.amsgrad.init(jax.tree.map(leaf_lib.widened, params))
    return SketchedAMSGradState(
      _without_scales(self.send.init(params)), moments
    )

  def update(
    self,
    updates: Updates,
    state: SketchedAMSGradState,
    params: Params = None,
    **extra: Any,
  ) -> tuple[Updates, SketchedAMSGradState]:
    """Sends the entries of the largest steps, and takes a step with them."""
    leaves = self.policy.leaves(updates)
    scales = jax.tree.map(
      lambda w: jnp.sqrt(w) + self.eps, state.moments.nu_max
    )
    given = state.compress._replace(
      compressor_state=leaf_lib.map_leaves(_split, leaves, scales)
    )
    means, sent = self.send.update(updates, given, params, **extra)
    wide = jax.tree.map(leaf_lib.widened, means)
    wide, _ = self.clip.update(wide, optax.EmptyState())
    steps, moments = self.amsgrad.update(wide, state.moments)
    finite = sent.count != state.compress.count
    return links.nan_unless(finite, steps, means), SketchedAMSGradState(
      _without_scales(sent), links.keep_unless(finite, moments, state.moments)
    )


def _split(leaf: Leaf, scale: Array) -> PyTree:
  """The scales of a leaf as those of its matrices."""
  if not isinstance(leaf, CompressedLeaf):
    return _NOTHING
  if not isinstance(leaf.compressor, _LargestSteps):
    return ()  # A dense leaf in few bits.
  return leaf.matrices.split(scale)


def _without_scales(state: CompressState) -> CompressState:
  """The state without what follows from the moments."""
  is_leaf = lambda x: isinstance(x, optax.MaskedNode)
  nothing = jax.tree.map(lambda _: _NOTHING, state.error, is_leaf=is_leaf)
  return state._replace(compressor_state=nothing)
