"""Past sketches: GreedyLore's directions from messages, without refreshes."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType
from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Each, Product, Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor

_FIRST = 1e-2  # Energy of D in the first step, relative to Y.


@dataclasses.dataclass(frozen=True)
class PastSketches(Compressor):
  """Directions from this step's sketch and from all that was sent before.

  Like `GreedyLore`, it sends scores, here a sketch of H_i = G_i + E_i, and then
  the factor of the directions P that they choose. But there is no refresh: P
  comes from what all workers have received anyway. With Q, [b, r], the last
  factor R^T, and N, [r, m], and M, [a, r], Gaussian and equal on all workers,

    V = Q N, each column scaled to the norm sqrt(b)
    Y_i = H_i V,   Y = mean_i Y_i        sent: a * m numbers
    C = Y Y^T + decay * D,   P = orth(C M)
    R_i = P^T H_i,   R = mean_i R_i      sent: r * b numbers
    output = P R,   E_i = H_i - P R_i
    D <- Y' Y'^T + m P R R^T P^T + decay * D,   where Y' = Y - P P^T Y.

  D estimates m H H^T from what was sent: the output, and what the sketch saw
  outside of P. So a sketch of m columns is enough for r directions, where
  PowerSGD needs one of r. In the first step decay * D is s^2 I / 100, where s
  is the largest magnitude in Y, so r - m of the directions are random.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and approximates worse.
    fresh: m as a share of r. Lower sends less and relies more on what is known;
      1 sends as much as PowerSGD.
    decay: weight of what is known, above 0 and at most 1. Lower follows
      gradients that change, higher those that stay.
    seed: of the first Q, which is Gaussian.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.PastSketches(rank=32), 'data')

  References:
    This library's. Scores and factor: GreedyLore, arXiv 2507.08784 (2025). The
    last factor as a start: PowerSGD, arXiv 1905.13727 (2019).
  """

  rank: int
  fresh: float = 0.5
  decay: float = 0.5
  seed: int = 0

  linear = True
  takes_several = True

  def __post_init__(self) -> None:
    checks.check_integer('rank', self.rank)
    checks.check_share('fresh', self.fresh)
    checks.check_share('decay', self.decay)
    checks.check_seed(self.seed)

  def init(
    self, k: int, a: int, b: int, dtype: DType
  ) -> tuple[Array, Array, Array]:
    """D / unit^2, [k, a, a], the unit, [k, 1, 1], and Q^T, [k, r, b].

    The unit is 0 as long as nothing was sent. It keeps the squares of tiny and
    of huge gradients within the range of the dtype.
    """
    r = min(self.rank, a)
    rows = jax.random.normal(jax.random.key(self.seed), (k, r, b), dtype)
    d = jnp.broadcast_to(jnp.eye(a, dtype=dtype), (k, a, a))
    return d, jnp.zeros((k, 1, 1), dtype), rows

  def compress(
    self, h: Array, state: tuple[Array, Array, Array], key: Array
  ) -> Rounds:
    """Two rounds: the sketch, then the factor of the directions."""
    d, unit, rows = state
    k, a, b = h.shape
    r = rows.shape[1]
    m = math.ceil(self.fresh * r)
    normal = yield from parts.normal(key, (k, r, m + a), h.dtype)
    start, mix = normal[..., :m], normal[..., m:].mT
    v = rows.mT @ start
    v = v * (b**0.5 / linalg.or_one(jnp.linalg.norm(v, axis=1, keepdims=True)))
    own = yield Product(h, v)
    y, _ = yield own

    known, unit = self._known(d, unit, parts.magnitude(y))
    y = y / linalg.or_one(unit)
    p = yield Each(linalg.orthonormal, y @ (y.mT @ mix) + known @ mix)

    output, sent, factor = yield from parts.project(h, p)
    largest, rest = parts.magnitude(factor), y - p @ (p.mT @ y)
    new_unit = jnp.maximum(unit, largest)
    factor_in_unit = factor / linalg.or_one(new_unit)
    new_d = m * p @ (factor_in_unit @ factor_in_unit.mT) @ p.mT
    new_d += (unit / linalg.or_one(new_unit)) ** 2 * (rest @ rest.mT + known)
    d = jnp.where(new_unit > 0, new_d, d)
    rows = jnp.where(largest > 0, factor / linalg.or_one(largest), rows)
    return output, sent, (d, new_unit, rows)

  def _known(
    self, d: Array, unit: Array, largest: Array
  ) -> tuple[Array, Array]:
    """Decay * D in the unit that is returned, at least `largest`."""
    lasting = self.decay**0.5 * unit
    new_unit = jnp.maximum(largest, lasting)
    share = (lasting / linalg.or_one(new_unit)) ** 2
    return jnp.where(unit > 0, share, _FIRST) * d, new_unit
