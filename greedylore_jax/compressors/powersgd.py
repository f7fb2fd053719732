"""PowerSGD: one power iteration per step, from where the last one ended."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax import _linalg
from greedylore_jax._rounds import Rounds
from greedylore_jax.compressors import base


@dataclasses.dataclass(frozen=True)
class PowerSGD:
  """Warm-started power iteration on the mean gradient plus error.

  With H_i = G_i + E_i and Q, [b, r], from the step before,

    Y_i = H_i Q                          sent: a * r numbers
    P = orth(mean_i Y_i)
    R_i = P^T H_i                        sent: r * b numbers
    output = P mean_i R_i,   E_i = H_i - P R_i,   Q <- (mean_i R_i)^T.

  There is no dense step and no decomposition. The error is formed from the
  worker's own R_i; the references use the mean, which gives the same outputs.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and errs more.
    seed: of the first Q, which is Gaussian.

  Raises:
    ValueError, TypeError: for settings out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.PowerSGD(rank=8), 'data', start_step=10)

  References:
    Vogels et al., PowerSGD, arXiv 1905.13727 (2019), Algorithms 1 and 2.
  """

  rank: int
  seed: int = 0

  update_interval = None
  linear = True

  def __post_init__(self):
    base.check_integer('rank', self.rank)
    base.check_integer('seed', self.seed, at_least=0)

  def init(self, k: int, a: int, b: int, dtype: Any) -> jax.Array:
    """Q, Gaussian, [k, b, r]."""
    shape = (k, b, min(self.rank, a))
    return jax.random.normal(jax.random.key(self.seed), shape, dtype)

  def compress(self, h: jax.Array, q: jax.Array, key: jax.Array) -> Rounds:
    """Two rounds: both halves of a power iteration."""
    del key
    y, _ = yield h @ q
    p = _linalg.orthonormal(y)
    r, r_local = yield p.mT @ h
    return p @ r, p @ r_local, jnp.swapaxes(r, -1, -2)
