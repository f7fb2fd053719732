"""Range finder: directions from a sketch of today's mean gradient."""

import dataclasses

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, PyTree
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class RangeFinder(Compressor):
  """Projection on the range of a sketch of the mean gradient plus error.

  With H_i = G_i + E_i and V, [b, r], equal on all workers,

    Y_i = H_i V                          sent: a * r numbers
    P = orth(mean_i Y_i)
    R_i = P^T H_i                        sent: r * b numbers
    output = P mean_i R_i,   E_i = H_i - P R_i.

  V is Gaussian and redrawn in every step; with `warm`, a share of its
  columns are the strongest rows of the last step's mean R instead. There is no
  dense step, no decomposition, and for warm = 0 no state but the error.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and approximates worse.
    warm: share of the columns that continue from the last step: 0 follows
      gradients that change, 1 (which is `PowerSGD`) those that stay.
    seed: of the warm columns before the first step.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.RangeFinder(rank=8, warm=0.5), 'data')

  References:
    Halko, Martinsson, Tropp, arXiv 0909.4061 (2009), Algorithm 4.1, for the
    range finder; the use with error feedback is this library's.
  """

  rank: int
  warm: float = 0.0
  seed: int = 0

  update_interval = None
  linear = True
  takes_several = True

  def __post_init__(self) -> None:
    checks.check_integer('rank', self.rank)
    checks.check_seed(self.seed)
    checks.check_share('warm', self.warm, or_zero=True)

  def init(self, k: int, a: int, b: int, dtype: DType) -> PyTree:
    """The warm columns, Gaussian, [k, b, w]; nothing if there are none."""
    r = min(self.rank, a)
    if not (w := round(self.warm * r)):
      return ()
    return jax.random.normal(jax.random.key(self.seed), (k, b, w), dtype)

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """Two rounds: the sketch, then the factor of its range."""
    k, a, b = h.shape
    r = min(self.rank, a)
    w = state.shape[2] if self.warm and len(state) else 0
    columns = [state] if w else []
    if r > w:
      fresh = yield from parts.normal(key, (k, b, r - w), h.dtype)
      columns.append(fresh)
    p = yield from parts.range_of(h, jnp.concatenate(columns, axis=2))
    output, sent, factor = yield from parts.project(h, p)
    if w == r:
      state = factor.mT
    elif w:
      energies = parts.energies(factor, axis=-1)
      state = yield from parts.top_columns(factor.mT, energies, w)
    return output, sent, state
