"""FRUGAL: AdamW on some columns of each matrix, signs on the others."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks, links
from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf, map_leaves
from greedylore_jax._src.engine.policy import (
  Policy,
  PolicyOptions,
  WeightDimensionNumbers,
)
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.transform import compress_gradients
from greedylore_jax._src.types import Array, AxisName, Params, PyTree, Updates
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.split_columns import SplitColumns

_DENSE = Dense()
_NOTHING = optax.MaskedNode()


class FrugalState(NamedTuple):
  """State of the first link of `frugal`.

  Attributes:
    compress: a `CompressState`, which holds the columns, and errors if they are
      kept.
    columns: moments of the chosen columns, [k, a, density * b] for a leaf of
      matrices; equal on all workers.
    others: moments of the leaves that are not matrices; equal on all workers.
  """

  compress: CompressState
  columns: optax.ScaleByAdamState
  others: optax.ScaleByAdamState


def frugal(
  learning_rate: float | Callable[[Array], Any],
  axis_name: AxisName,
  *,
  density: float = 0.25,
  update_interval: int = 200,
  compressor: Compressor = _DENSE,
  sign_scale: float = 1.0,
  error_feedback: bool = False,
  clip_norm: float | None = None,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  min_compression_rate: float = 1.0,
  weight_dimension_numbers: WeightDimensionNumbers = None,
  seed: int = 0,
) -> optax.GradientTransformation:
  """FRUGAL: moments of a part of the coordinates, one bit for all others.

  Of each matrix, new random columns J are chosen every T steps, equal on all
  workers. With G_i the gradient of worker i,

    g = mean_i G_i                        on J, sent by `compressor`
    s = sign(mean_i t_i sign(G_i))        elsewhere, sent in a bit per number
    m, v = the moments of g, as in Adam, with bias correction
    W <- W - learning_rate (m / (sqrt(v) + eps) + decay W)       on J
    W <- W - learning_rate (sign_scale s + decay W)              elsewhere.

  t_i is the mean magnitude of a column of G_i, so s is a vote of the workers in
  which larger gradients count more. When other columns are chosen, their
  moments and their bias correction start from zero. `SplitColumns` says how
  both parts are sent. Moments take `density` times the memory of Adam's. Leaves
  that are not matrices are averaged dense and take steps of Adam.

  With error feedback, G_i + E_i takes the place of G_i, and E_i keeps what was
  not sent of either part. It is needed if `compressor` leaves much out. It also
  changes what the signs say: those of an entry that is small in its column
  alternate, so that its steps are in proportion to it on average, as in
  EF-signSGD, while without error feedback all entries move equally far.

  Args:
    learning_rate: a number or a schedule.
    axis_name: mesh axis (or tuple of axes) of the workers; None for one.
    density: share of the columns that have moments, in (0, 1]. Lower sends and
      keeps less; 1 is AdamW.
    update_interval: T, steps until other columns are chosen.
    compressor: how the chosen columns are sent, such as `Quantize(8)`.
    sign_scale: of the steps by signs, relative to those of Adam. 1 fits
      pre-training; fine-tuning may need less.
    error_feedback: True keeps what was not sent, an error as large as the
      matrices on each worker.
    clip_norm: largest global norm of what Adam receives; None is off.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: floor of the denominator.
    weight_decay: of leaves with at least two axes.
    min_compression_rate: as for `compress_gradients`; a matrix that would not
      shrink takes steps of Adam.
    weight_dimension_numbers: as for `compress_gradients`. [('embed|head',
      None), ...] gives these leaves steps of Adam, as in the paper.
    seed: of the choice of columns.

  Returns:
    An `optax.GradientTransformation`. Its `update` needs the parameters if
    there is weight decay. If anything received is not finite, the updates are
    NaN and the moments stay as they were: to skip such a step, chain
    `optax.apply_if_finite(optax.identity(), n)` behind it.

  Raises:
    ValueError, TypeError: as `compress_gradients` and `SplitColumns`.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> tx = gl.frugal(1e-3, axis_name=None, compressor=gl.Quantize(8))
    >>> state = tx.init({'w': jnp.ones((8, 16)), 'gain': jnp.ones(16)})
    >>> state[0].columns.mu['w'].shape
    (1, 8, 4)

  References:
    FRUGAL, arXiv 2411.07837 (2024), Algorithm 1 with random columns; majority
    vote: Bernstein et al., signSGD, arXiv 1802.04434 (2018).
  """
  checks.check_nonnegative('sign_scale', sign_scale)
  method = SplitColumns(density, update_interval, compressor)
  options = PolicyOptions(
    error_feedback=error_feedback,
    min_compression_rate=min_compression_rate,
    weight_dimension_numbers=weight_dimension_numbers,
  )
  on_columns = _AdamOnColumns(
    method=method,
    send=compress_gradients(method, axis_name, seed=seed, **options),
    policy=Policy.of(method, **options),
    clip=links.clipping(clip_norm),
    adam=links.adam(b1, b2, eps),
    sign_scale=sign_scale,
  )
  return links.optimizer(on_columns, weight_decay, learning_rate)


@dataclasses.dataclass(frozen=True)
class _AdamOnColumns:
  """Local gradients in, steps of Adam and signs out."""

  method: SplitColumns
  send: optax.GradientTransformationExtraArgs
  policy: Policy
  clip: optax.GradientTransformation
  adam: optax.GradientTransformation
  sign_scale: float

  def init(self, params: Params) -> FrugalState:
    """Columns and moments before the first step."""
    sent = self.send.init(params)
    leaves = self.policy.leaves(params)
    parts = self._parts(leaves, params, sent.compressor_state)
    return FrugalState(sent, *map(self.adam.init, parts))

  def update(
    self,
    updates: Updates,
    state: FrugalState,
    params: Params = None,
    **extra: Any,
  ) -> tuple[Updates, FrugalState]:
    """Sends both parts, and takes a step with each."""
    leaves = self.policy.leaves(updates)
    means, sent = self.send.update(updates, state.compress, params, **extra)
    chosen = sent.compressor_state
    parts, _ = self.clip.update(
      self._parts(leaves, means, chosen), optax.EmptyState()
    )
    is_new = state.compress.count % self.method.update_interval == 0
    before = jax.tree.map(
      lambda x: jnp.where(is_new, jnp.zeros_like(x), x), state.columns
    )
    on_columns, columns = self.adam.update(parts[0], before)
    on_others, others = self.adam.update(parts[1], state.others)
    steps = map_leaves(self._step, leaves, means, on_columns, on_others, chosen)
    finite = sent.count != state.compress.count
    return links.nan_unless(finite, steps, means), FrugalState(
      sent,
      links.keep_unless(finite, columns, state.columns),
      links.keep_unless(finite, others, state.others),
    )

  def _parts(
    self, leaves: list[Leaf], means: Updates, chosen: PyTree
  ) -> tuple[PyTree, PyTree]:
    """The chosen columns of matrices, and the leaves that are none."""

    def columns(leaf: Leaf, mean: Array, state: PyTree) -> PyTree:
      if not isinstance(leaf, CompressedLeaf):
        return _NOTHING
      matrices = leaf.matrices.split(leaf_lib.widened(mean))
      return self.method.split(matrices, state)[0]

    def other(leaf: Leaf, mean: Array) -> PyTree:
      is_matrix = isinstance(leaf, CompressedLeaf)
      return _NOTHING if is_matrix else leaf_lib.widened(mean)

    return (
      map_leaves(columns, leaves, means, chosen),
      map_leaves(other, leaves, means),
    )

  def _step(
    self,
    leaf: Leaf,
    mean: Array,
    on_columns: PyTree,
    own: PyTree,
    state: PyTree,
  ) -> Array:
    """What is subtracted from the parameters, in the leaf's shape."""
    if not isinstance(leaf, CompressedLeaf):
      step: Array = own
      return step
    matrices = leaf.matrices.split(leaf_lib.widened(mean))
    _, others = self.method.split(matrices, state)
    signs = self.sign_scale * jnp.sign(others)
    return leaf.matrices.join(self.method.join(on_columns, signs, state))
