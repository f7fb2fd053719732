"""LoRDO: local steps of a low-rank Adam, in a basis that each round renews."""

from collections.abc import Callable, Iterable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks, links
from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine import policy as policy_lib
from greedylore_jax._src.engine.exchange import leaf_keys
from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf, map_leaves
from greedylore_jax._src.engine.policy import Policy, WeightDimensionNumbers
from greedylore_jax._src.engine.round_length import QSR
from greedylore_jax._src.local_updates import RoundOptimizer, local_updates
from greedylore_jax._src.transform import compress_gradients
from greedylore_jax._src.types import (
  Array,
  AxisName,
  Function,
  OptState,
  Params,
  PyTree,
  Updates,
)
from greedylore_jax._src.wire import linalg, rounds
from greedylore_jax._src.wire.transport import all_finite
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.subspaces import FixedSubspace

_NOTHING = optax.MaskedNode()


class LowRankAdamState(NamedTuple):
  """One worker's state of the inner optimizer of `lordo`.

  Attributes:
    rounds: int32 scalar, rounds so far; equal on all workers.
    basis: the parameters' tree; a leaf of matrices holds Q, [k, a, r], equal on
      all workers; other leaves hold `optax.MaskedNode()`.
    error: the parameters' tree; a leaf of matrices holds E_i, of its shape,
      with error feedback; other leaves hold `optax.MaskedNode()`.
    adam: the moments, [k, r, b] for a leaf of matrices, and of the leaf's shape
      for the others.
  """

  rounds: Array
  basis: PyTree
  error: PyTree
  adam: optax.ScaleByAdamState


def lordo(
  learning_rate: float | Callable[[Array], Any],
  rank: int,
  axis_name: AxisName,
  *,
  every: int | QSR,
  outer: optax.GradientTransformation | None = None,
  update_interval: int = 1,
  quasi_hyperbolic: float = 0.9,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  error_feedback: bool = True,
  min_compression_rate: float = 1.0,
  weight_dimension_numbers: WeightDimensionNumbers = None,
  seed: int = 0,
  start_step: int = 0,
  total_steps: int | None = None,
) -> optax.GradientTransformation:
  """LoRDO: local steps of Adam with moments of rank r, averaged every H steps.

  This is `local_updates` with an inner optimizer that keeps its moments in a
  basis Q, [a, r], which is equal on all workers. With G_i the gradient of
  worker i, clipped, and E_i its own error, a local step is

    H_i = G_i + E_i,   g_i = Q^T H_i,   E_i <- H_i - Q g_i
    u_i, v_i = the moments of g_i, as in Adam, with bias correction
    scale_i[j] = sqrt(mean over rows of v_i[:, j]) + eps
    y_i <- y_i - rate ((1 - w) G_i / scale_i + w Q (u_i / (sqrt(v_i) + eps))).

  A round ends as in `local_updates`. Q then becomes the r leading left singular
  vectors of the change in x, and the moments follow. With R = Q_new^T Q,

    u_i <- R u_i,   v_i <- (R * R) v_i + (1 - row sums of R * R) mean(v_i)

  with the mean over the rows of v_i. For uncorrelated rows of g_i, (R * R) v_i
  are the second moments of R g_i. The share of a new direction that is outside
  of the old basis gets the mean: with 0 the next steps would be too long.

  With w = 1 and without weight decay, x never leaves the span of the first
  basis: every change is in the span of Q, so the next Q has the same span. The
  term in G_i, of full rank, is what lets Q turn. Its scale, the bias correction
  and the rule for v_i are this library's interpretation of the reference.

  Leaves that are not matrices take steps of Adam.

  Args:
    learning_rate: a number or a schedule.
    rank: r, the directions of a matrix in which there are moments. Lower needs
      less memory and sees less.
    axis_name: mesh axis (or tuple of axes) of the workers, over which the
      default `outer` averages; None for one worker.
    every: H, the steps in a round, or a `QSR`; as for `local_updates`.
    outer: as for `local_updates`. None is plain averaging,
      `average_gradients` and `optax.sgd(1.0)`. A chain that begins with
      `compress_gradients` sends less.
    update_interval: rounds from one renewal of Q to the next; the first round
      always renews it. Higher saves decompositions.
    quasi_hyperbolic: w, in [0, 1], the weight of the low-rank step. Lower gives
      more to the gradient of full rank, which has no momentum.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: floor of the denominators.
    weight_decay: of leaves with at least two axes.
    clip_norm: largest global norm of a worker's gradient; None is off.
    error_feedback: False forgets the part of a gradient that is outside of Q.
    min_compression_rate: a matrix has moments of low rank only if a / r, by
      which they are smaller, is above this. Others take steps of Adam.
    weight_dimension_numbers: which leaves are matrices, as for
      `compress_gradients`. [('embed|head', None), ...] gives these leaves steps
      of Adam.
    seed: of the first basis, which is random.
    start_step: as for `local_updates`.
    total_steps: as for `local_updates`.

  Returns:
    An `optax.GradientTransformation` whose state is a `LocalUpdatesState`, with
    which `init_state`, `make_train_step`, `local_params` and the checkpoints
    work as for `local_updates`.

  Raises:
    ValueError, TypeError: for arguments out of range; in `init`, if no matrix
      would have moments of low rank; else as `local_updates`.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> tx = gl.lordo(1e-3, rank=2, axis_name=None, every=10)
    >>> state = tx.init({'w': jnp.ones((8, 16)), 'gain': jnp.ones(16)})
    >>> state.inner.tree[0].adam.mu['w'].shape
    (1, 1, 2, 16)

  References:
    LoRDO, arXiv 2602.04396 (2026). Rotated moments: LDAdam, arXiv 2410.16103.
  """
  checks.check_integer('update_interval', update_interval)
  checks.check_share('quasi_hyperbolic', quasi_hyperbolic, or_zero=True)
  checks.check_seed(seed)
  low_rank = _LowRankAdam(
    policy=Policy.of(
      FixedSubspace(rank),
      error_feedback=error_feedback,
      min_compression_rate=min_compression_rate,
      weight_dimension_numbers=weight_dimension_numbers,
    ),
    rank=rank,
    update_interval=update_interval,
    weight=quasi_hyperbolic,
    clip=links.clipping(clip_norm),
    adam=links.adam(b1, b2, eps),
    b2=b2,
    eps=eps,
    seed=seed,
  )
  chain = optax.chain(
    optax.GradientTransformation(low_rank.init, low_rank.update),
    links.weight_decay(weight_decay),
    links.descent(learning_rate),
  )

  def after_round(state: OptState, moved: Updates) -> OptState:
    first, *others = state
    return low_rank.after_round(first, moved), *others

  if outer is None:
    average = compress_gradients(
      Dense(), axis_name, weight_dimension_numbers=weight_dimension_numbers
    )
    outer = optax.chain(average, optax.sgd(1.0))
  return local_updates(
    RoundOptimizer(chain.init, chain.update, after_round),
    outer=outer,
    every=every,
    start_step=start_step,
    total_steps=total_steps,
    axis_name=axis_name,
  )


@dataclasses.dataclass(frozen=True)
class _LowRankAdam:
  """A worker's gradients in, steps of Adam within Q out."""

  policy: Policy
  rank: int
  update_interval: int
  weight: float
  clip: optax.GradientTransformation
  adam: optax.GradientTransformation
  b2: float
  eps: float
  seed: int

  def init(self, params: Params) -> LowRankAdamState:
    """A random basis; moments and errors of zeros."""
    leaves = self.policy.leaves(params)
    self._check_compresses(leaves)
    treedef: Any = jax.tree.structure(params)
    keys = leaf_keys(jax.random.key(self.seed), len(leaves))
    basis = treedef.unflatten(_done(map(self._drawn, leaves, keys)))

    def moment(leaf: Leaf, x: Array, basis: PyTree) -> Array:
      if not isinstance(leaf, CompressedLeaf):
        return leaf_lib.widened(x)
      k, _, r = basis.shape
      return jnp.zeros((k, r, leaf.matrices.b), basis.dtype)

    def error(leaf: Leaf, x: Array) -> PyTree:
      return (
        jnp.zeros_like(leaf_lib.widened(x)) if leaf.keeps_error else _NOTHING
      )

    return LowRankAdamState(
      rounds=jnp.zeros([], jnp.int32),
      basis=basis,
      error=map_leaves(error, leaves, params),
      adam=self.adam.init(map_leaves(moment, leaves, params, basis)),
    )

  def update(
    self, updates: Updates, state: LowRankAdamState, params: Params = None
  ) -> tuple[Updates, LowRankAdamState]:
    """One local step, before weight decay and learning rate."""
    del params
    leaves = self.policy.leaves(updates)
    wide = jax.tree.map(leaf_lib.widened, updates)
    grads, _ = self.clip.update(wide, optax.EmptyState())
    with jax.default_matmul_precision('highest'):
      fed = map_leaves(_fed, leaves, grads, state.error)
      cores = map_leaves(_core, leaves, fed, state.basis)
      error = map_leaves(_left, leaves, fed, cores, state.basis)
      steps, adam = self.adam.update(cores, state.adam)
      variances = optax.tree.bias_correction(adam.nu, self.b2, adam.count)
      steps = map_leaves(
        self._step, leaves, steps, variances, grads, state.basis
      )
    return steps, state._replace(error=error, adam=adam)

  def after_round(
    self, state: LowRankAdamState, moved: Updates
  ) -> LowRankAdamState:
    """The state in the basis of what x has moved."""

    def renew(bases: PyTree, adam: optax.ScaleByAdamState) -> Any:
      leaves = self.policy.leaves(moved)
      treedef: Any = jax.tree.structure(moved)
      tasks = map(self._leading, leaves, treedef.flatten_up_to(moved))
      found = treedef.unflatten(_done(tasks))
      renewed = map_leaves(_renewed, leaves, moved, bases, found)
      turned: Function = lambda turn, moment: map_leaves(
        functools.partial(_turned, turn), leaves, moment, bases, renewed
      )
      mu = turned(links.turned, adam.mu)
      nu = turned(links.turned_squares, adam.nu)
      return renewed, adam._replace(mu=mu, nu=nu)

    held = state.basis, state.adam
    with jax.default_matmul_precision('highest'):
      if self.update_interval == 1:
        held = renew(*held)
      else:
        is_due = state.rounds % self.update_interval == 0
        held = jax.lax.cond(is_due, renew, lambda *held: held, *held)
    basis, adam = held
    return state._replace(rounds=state.rounds + 1, basis=basis, adam=adam)

  def _drawn(self, leaf: Leaf, key: Array) -> rounds.Each | None:
    """The random first basis, as a task."""
    if not isinstance(leaf, CompressedLeaf):
      return None
    m, dtype = leaf.matrices, leaf_lib.compute_dtype(leaf.dtype)
    normal = jax.random.normal(key, (m.k, m.a, min(self.rank, m.a)), dtype)
    return rounds.Each(linalg.orthonormal, normal)

  def _leading(self, leaf: Leaf, moved: Array) -> rounds.Each | None:
    """The leading directions of what x has moved, as a task."""
    if not isinstance(leaf, CompressedLeaf):
      return None
    function = linalg.leading_directions('gram', self.rank)
    return rounds.Each(function, leaf.matrices.split(leaf_lib.widened(moved)))

  def _step(
    self, leaf: Leaf, d: Array, variance: Array, g: Array, basis: PyTree
  ) -> Array:
    """What is subtracted from the parameters, in the leaf's shape."""
    if not isinstance(leaf, CompressedLeaf):
      return d
    step = basis @ d
    if self.weight < 1:
      scale = jnp.sqrt(variance.mean(axis=1, keepdims=True)) + self.eps
      full = leaf.matrices.split(g) / scale
      step = (1 - self.weight) * full + self.weight * step
    return leaf.matrices.join(step)

  def _check_compresses(self, leaves: list[Leaf]) -> None:
    """Raises if no moments are of low rank; warns of ambiguous shapes."""
    if leaves and not any(isinstance(x, CompressedLeaf) for x in leaves):
      raise ValueError(
        'lordo needs a matrix whose moments shrink by more than'
        f' {self.policy.min_compression_rate:g} times at rank {self.rank}, got'
        ' none: lower the rank, or use gl.local_updates with optax.adamw.'
      )
    policy_lib.check_compresses(leaves)


def _done(tasks: Iterable[rounds.Each | None]) -> list[Any]:
  """The results of tasks, one matrix after the other; nothing for None."""
  tasks = list(tasks)
  results = iter(rounds.each([x for x in tasks if x is not None]))
  return [_NOTHING if x is None else next(results) for x in tasks]


def _fed(leaf: Leaf, g: Array, error: PyTree) -> Array:
  """H_i = G_i + E_i."""
  return g + error if leaf.keeps_error else g


def _core(leaf: Leaf, h: Array, basis: PyTree) -> Array:
  """Q^T H_i in the place of matrices."""
  if not isinstance(leaf, CompressedLeaf):
    return h
  m = leaf.matrices
  return linalg.thin_product(basis.mT, m.split(h), m.is_column_major)


def _left(leaf: Leaf, h: Array, core: Array, basis: PyTree) -> PyTree:
  """H_i - Q g_i, if it is kept."""
  if not (isinstance(leaf, CompressedLeaf) and leaf.keeps_error):
    return _NOTHING
  return h - leaf.matrices.join(basis @ core)


def _renewed(leaf: Leaf, moved: Array, old: PyTree, new: PyTree) -> PyTree:
  """The new basis; the old one of a matrix that did not move."""
  if not isinstance(leaf, CompressedLeaf):
    return old
  has_moved = jnp.any(leaf.matrices.split(moved) != 0, (1, 2), keepdims=True)
  return jnp.where(has_moved & all_finite([new]), new, old)


def _turned(
  turn: Function, leaf: Leaf, moment: Array, old: PyTree, new: PyTree
) -> Array:
  """A moment in a new basis."""
  if not isinstance(leaf, CompressedLeaf):
    return moment
  turned: Array = turn(moment, new.mT @ old)
  return turned
