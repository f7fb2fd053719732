"""TSR: r x r cores between bases of a randomized refresh."""

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Function
from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Each, Product, Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


class TSRState(NamedTuple):
  """State of `TSR` for a leaf; equal on all workers.

  Attributes:
    u: [k, a, r], directions of the short side.
    v: [k, b, r], directions of the long side.
    core: [k, r, r], the last step's mean core: its output is u core v^T.
  """

  u: Array
  v: Array
  core: Array


@dataclasses.dataclass(frozen=True)
class TSR(Compressor):
  """Two-sided randomized low-rank cores.

  Between refreshes C_i = U^T H_i V is sent, r * r numbers, and the output is
  U mean_i C_i V^T. A refresh is a randomized singular value decomposition of
  the mean, with k = r + oversampling and Omega Gaussian, equal on all workers:

    Y = mean_i H_i Omega,   Q = orth(Y)             sent: k * a numbers
    Z = mean_i H_i^T Q,     Y = mean_i H_i orth(Z),   Q = orth(Y)
                            sent for each power iteration: k * (a + b)
    B = mean_i Q^T H_i                              sent: k * b
    B = U_B S V^T,   U = Q U_B[:, :r],   V = V[:, :r],   core = +-S[:r].

  No dense gradient is ever sent. `tsr_adam` runs Adam on the cores.

  Args:
    rank: r (at most a is used). Lower sends less and approximates worse.
    update_interval: K, steps from one refresh to the next.
    oversampling: p, additional directions during a refresh. Higher finds
      better directions and sends more.
    power_iterations: q. Higher finds better directions and sends more.
    average: 'gradients' as above; 'bases' is the paper's: every worker finds a
      Q_i of its own H_i, and their mean stands for Q. That sends k * (a + b)
      for any q and r * r in the same step, but the mean of bases is not a
      basis: where workers differ, energy is lost.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.TSR(rank=64), 'data')

  References:
    TSR-Adam, arXiv 2602.08007 (2026), Algorithm 1; Halko, Martinsson, Tropp,
    arXiv 0909.4061 (2009), Algorithms 4.4 and 5.1.
  """

  rank: int
  update_interval: int = 100
  oversampling: int = 5
  power_iterations: int = 1
  average: Literal['gradients', 'bases'] = 'gradients'

  takes_several = True

  def __post_init__(self) -> None:
    checks.check_integer('rank', self.rank)
    checks.check_integer('update_interval', self.update_interval)
    checks.check_integer('oversampling', self.oversampling, at_least=0)
    checks.check_integer('power_iterations', self.power_iterations, at_least=0)
    checks.check_choice('average', self.average, ('gradients', 'bases'))

  @property
  def linear(self) -> bool:  # type: ignore[override]
    """A mean of bases is not a function of the mean gradient."""
    return self.average == 'gradients'

  def init(self, k: int, a: int, b: int, dtype: DType) -> TSRState:
    """Any orthonormal directions, until the first refresh."""
    r = min(self.rank, a)
    eye: Function = lambda n: jnp.broadcast_to(
      jnp.eye(n, r, dtype=dtype), (k, n, r)
    )
    return TSRState(eye(a), eye(b), jnp.zeros((k, r, r), dtype))

  def leading(self, state: TSRState) -> Array:
    """The left directions, whose drift is observed."""
    return state.u

  def refresh(self, h: Array, state: TSRState, key: Array) -> Rounds:
    """New directions, and the core between them."""
    k, a, b = h.shape
    size = min(self.rank + self.oversampling, a)
    omega = yield from parts.normal(key, (k, b, size), h.dtype)
    if self.average == 'bases':
      return (yield from self._refresh_by_bases(h, omega))
    q = yield from parts.range_of(h, omega, self.power_iterations)
    own = yield Product(q.mT, h)
    within, within_local = yield own
    u, v = yield from self._directions(q, within)
    turn = u.mT @ q
    core, local = turn @ within @ v, turn @ within_local @ v
    return u @ core @ v.mT, u @ local @ v.mT, TSRState(u, v, core)

  def _refresh_by_bases(self, h: Array, omega: Array) -> Rounds:
    """The paper's: Q = mean_i Q_i, which is not orthonormal."""
    y_local = yield Product(h, omega)
    q_local = yield Each(linalg.orthonormal, y_local)
    for _ in range(self.power_iterations):
      within = yield Product(q_local.mT, h)
      z_local = yield Each(linalg.orthonormal, within.mT)
      y_local = yield Product(h, z_local)
      q_local = yield Each(linalg.orthonormal, y_local)
    q, _ = yield q_local
    own = yield Product(q.mT, h)
    within, _ = yield own
    u, v = yield from self._directions(q, within)
    return (yield from self._between(h, u, v))

  def _directions(self, q: Array, within: Array) -> Rounds:
    """U and V of rank r from Q, [k, a, s], and B = Q^T H, [k, s, b]."""
    u = yield Each(linalg.left_singular_basis('gram'), within)
    u = u[:, :, : min(self.rank, q.shape[1])]
    v = yield Each(linalg.orthonormal, within.mT @ u)
    return q @ u, v

  def compress(self, h: Array, state: TSRState, key: Array) -> Rounds:
    """One round: the core."""
    del key
    return (yield from self._between(h, state.u, state.v))

  def _between(self, h: Array, u: Array, v: Array) -> Rounds:
    """The core between the directions is sent."""
    output, sent, core = yield from parts.project_both(h, u, v)
    return output, sent, TSRState(u, v, core)
