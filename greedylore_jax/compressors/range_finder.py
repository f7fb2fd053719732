"""Range finder: directions from a sketch of today's mean gradient."""

import dataclasses
from typing import Any

import jax

from greedylore_jax import _linalg
from greedylore_jax._rounds import Rounds
from greedylore_jax.compressors import base


@dataclasses.dataclass(frozen=True)
class RangeFinder:
  """Projection on the range of a random sketch, drawn anew at every step.

  With H_i = G_i + E_i and V, [b, r], Gaussian and equal on all workers,

    Y_i = H_i V                          sent: a * r numbers
    P = orth(mean_i Y_i)
    R_i = P^T H_i                        sent: r * b numbers
    output = P mean_i R_i,   E_i = H_i - P R_i.

  There is no dense step, no decomposition and no state but the error.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and errs more.

  Raises:
    ValueError, TypeError: for settings out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.RangeFinder(rank=8), 'data')

  References:
    Halko, Martinsson, Tropp, arXiv 0909.4061 (2009), Algorithm 4.1, for the
    range finder; the use with error feedback is this library's.
  """

  rank: int

  update_interval = None
  linear = True

  def __post_init__(self):
    base.check_integer('rank', self.rank)

  def init(self, k: int, a: int, b: int, dtype: Any) -> tuple[()]:
    """Nothing to remember."""
    del k, a, b, dtype
    return ()

  def compress(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """Two rounds: the sketch, then the factor of its range."""
    k, a, b = h.shape
    v = jax.random.normal(key, (k, b, min(self.rank, a)), h.dtype)
    y, _ = yield h @ v
    output, sent = yield from base.project(h, _linalg.orthonormal(y))
    return output, sent, memory
