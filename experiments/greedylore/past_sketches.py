"""A prototype whose basis costs few bytes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Each
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class PastSketches(Compressor):
  """Directions from the current sketch and from earlier messages.

  Each worker sketches H by m random mixtures of the last factor's r rows, where
  PowerSGD uses all of these rows. The r directions P are the range of

    C = Y Y^T + decay * D,   D <- Y' Y'^T + m P R R^T P^T + decay * D

  where Y is the mean sketch, Y' = Y - P P^T Y its part outside of P, and P R
  the output. All workers know D, so m columns are sent for r directions. In the
  first step D is zero, and r - m of the directions are arbitrary.

  Args:
    rank: r, directions per matrix and step.
    probes: m, columns of the sketch; at most r.
    decay: weight of D, between 0 and 1.
  """

  rank: int
  probes: int
  decay: float

  linear = True
  takes_several = True

  def init(self, k: int, a: int, b: int, dtype: Any) -> Any:
    """D, [k, a, a], and the rows of the last factor, Gaussian, [k, r, b]."""
    rows = jax.random.normal(jax.random.key(0), (k, self.rank, b), dtype)
    return jnp.zeros((k, a, a), dtype), rows

  def compress(self, h: Any, state: Any, key: Any) -> Any:
    """Two rounds: the sketch, [k, a, m], then the factor, [k, r, b]."""
    d, rows = state
    k, a, b = h.shape
    m = self.probes
    normal = yield from parts.normal(key, (k, self.rank, m + a), h.dtype)
    v = rows.mT @ normal[..., :m]
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True) * b**0.5
    y, _ = yield h @ v
    c = y @ y.mT + self.decay * d
    p = yield Each(linalg.orthonormal, c @ normal[..., m:].mT)
    output, sent, rows = yield from parts.project(h, p)
    rest, known = y - p @ (p.mT @ y), p @ rows
    d = rest @ rest.mT + m * known @ known.mT + self.decay * d
    return output, sent, (d, rows)
