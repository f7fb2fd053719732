"""PowerSGD: power iterations that go on from step to step."""

import dataclasses
from typing import Any

import jax

from greedylore_jax import _linalg
from greedylore_jax._rounds import Rounds
from greedylore_jax.compressors import base
from greedylore_jax.compressors import range_finder


@dataclasses.dataclass(frozen=True)
class PowerSGD(range_finder.RangeFinder):
  """Warm-started power iteration on the mean gradient plus error.

  `RangeFinder` whose columns all continue: with H_i = G_i + E_i and Q, [b, r],
  from the step before,

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

  warm: float = dataclasses.field(default=1.0, init=False)


@dataclasses.dataclass(frozen=True)
class AlternatingPowerSGD:
  """Half a power iteration per step: the sides of a matrix take turns.

  With H_i = G_i + E_i, P, [a, r], and Q, [b, r], in odd and in even steps

    R_i = P^T H_i, sent: r * b numbers      S_i = H_i Q, sent: a * r numbers
    output = P mean_i R_i                   output = mean_i S_i Q^T
    E_i = H_i - P R_i                       E_i = H_i - S_i Q^T
    Q = orth((mean_i R_i)^T)                P = orth(mean_i S_i).

  A step sends half of what `PowerSGD` sends, in one round, along directions
  that come from the step before instead of this one's gradient.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and errs more.
    seed: of the first P, which is random.

  Raises:
    ValueError, TypeError: for settings out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.AlternatingPowerSGD(rank=16), 'data')

  References:
    ACP-SGD: Zhang et al., Evaluation and Optimization of Gradient Compression
    for Distributed Deep Learning, arXiv 2306.08881 (2023).
  """

  rank: int
  seed: int = 0

  update_interval = 2  # Every other step is a 'refresh': that of the rows.
  linear = True

  def __post_init__(self):
    base.check_integer('rank', self.rank)
    base.check_integer('seed', self.seed, at_least=0)

  def init(self, k: int, a: int, b: int, dtype: Any) -> Any:
    """P, random, and a Q that the first step replaces."""
    r = min(self.rank, a)
    key = jax.random.key(self.seed)
    p = _linalg.orthonormal(jax.random.normal(key, (k, a, r), dtype))
    return p, jax.numpy.zeros((k, b, r), dtype)

  def refresh(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """One round: the factor of the left directions."""
    del key
    p, _ = memory
    r, local = yield p.mT @ h
    return p @ r, p @ local, (p, _linalg.orthonormal(r.mT))

  def compress(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """One round: the factor of the right directions."""
    del key
    _, q = memory
    s, local = yield h @ q
    return s @ q.mT, local @ q.mT, (_linalg.orthonormal(s), q)
