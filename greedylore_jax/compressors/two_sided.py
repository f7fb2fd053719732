"""Two-sided GreedyLore: the best directions of rows and of columns."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks as _checks
from greedylore_jax._src.wire import linalg as _linalg
from greedylore_jax._src.wire.rounds import Each
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import compressor as base


@dataclasses.dataclass(frozen=True)
class TwoSided(base.Compressor):
  """Greedy choice on both sides of a lazy SVD: an r x r core is sent.

  At a refresh everything is sent, and all left and right singular vectors U and
  V of the mean are kept, V completed to a basis, [b, b]. Until the next one,
  with v_m ~ N(0, I_b) and w_m ~ N(0, I_a) equal on all workers,

    lambda_i = U^T H_i [v_1 .. v_m],   mu_i = V^T H_i^T [w_1 .. w_m]
                                          sent: (a + b) * m numbers
    P, Q = the r columns of U and of V with the largest (mean_i lambda_i)^2 and
      (mean_i mu_i)^2, summed over the probes
    C_i = P^T H_i Q                       sent: r * r numbers
    output = P mean_i C_i Q^T,   E_i = H_i - P C_i Q^T.

  It keeps b * b numbers for V, so it is not for embeddings.

  Args:
    rank: r, directions of each side (at most a of the shorter one are used).
      Lower sends less and errs more.
    update_interval: tau, steps from one refresh to the next.
    probes: m, random probes per side.
    decomposition: 'gram' or 'svd', as for `GreedyLore`.

  Raises:
    ValueError, TypeError: for settings out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.TwoSided(rank=64), 'data')

  References:
    This library's; the scores are GreedyLore's (arXiv 2507.08784), the core is
    that of TSR (arXiv 2602.08007).
  """

  rank: int
  update_interval: int = 200
  probes: int = 4
  decomposition: _linalg.Decomposition = 'gram'

  linear = True
  takes_several = True

  needs_whole = ('refresh',)  # To complete V to a basis.

  def __post_init__(self):
    base.check_lazy_basis(self)
    _checks.check_integer('probes', self.probes)

  def init(self, k: int, a: int, b: int, dtype: Any) -> Any:
    """U and V before the first refresh: any orthonormal bases will do."""
    eye = lambda n: jnp.broadcast_to(jnp.eye(n, dtype=dtype), (k, n, n))
    return eye(a), eye(b)

  def leading(self, bases: Any) -> jax.Array:
    """The r leading left directions, whose drift is observed."""
    return bases[0][:, :, : self.rank]

  def refresh(self, h: jax.Array, bases: Any, key: jax.Array) -> Rounds:
    """Everything is sent, and the bases are those of its mean."""
    h_mean, h_sent, _ = yield from base.dense(h, bases, key)
    decompose = _linalg.left_singular_basis(self.decomposition)
    u = yield Each(decompose, h_mean, divisible=True)
    # H^T U is V times singular values.
    v = yield Each(_linalg.completed, h_mean.mT @ u)
    return h_mean, h_sent, (u, v)

  def compress(self, h: jax.Array, bases: Any, key: jax.Array) -> Rounds:
    """Two rounds: scores of both sides, then the core of what they chose."""
    u, v = bases
    k, a, b = h.shape
    draws = yield from base.normal(key, (k, a + b, self.probes), h.dtype)
    left = _linalg.thin_product(h, draws[:, a:]).mT @ u
    right = _linalg.thin_product(draws[:, :a].mT, h) @ v
    scores, _ = yield jnp.concatenate([left, right], axis=2)
    energies = jnp.sum(scores**2, axis=1)
    p = yield from base.top_columns(u, energies[:, :a], min(self.rank, a))
    q = yield from base.top_columns(v, energies[:, a:], min(self.rank, b))
    output, sent, _ = yield from base.project_both(h, p, q)
    return output, sent, bases
