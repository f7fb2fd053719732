"""GreedyLore with knowledge that costs no bytes, to see what each cause costs.

One worker replays recorded mean gradients, so what a method would have to be
told is simply there.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Each
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.greedylore import GreedyLore


@dataclasses.dataclass(frozen=True)
class ExactChoice(GreedyLore):
  """GreedyLore that knows the energies of its directions, without probes."""

  def compress(self, h: Any, basis: Any, key: Any) -> Any:
    """One round: the factor of the strongest directions."""
    energies = jnp.sum((basis.mT @ h) ** 2, axis=-1)
    p = yield from parts.top_columns(basis, energies, self.rank)
    output, sent, _ = yield from parts.project(h, p)
    return output, sent, basis


class _LastStep:
  """The basis is that of the step before."""

  def compress(self, h: Any, basis: Any, key: Any) -> Any:
    """Chooses as the other parent does, and renews the basis."""
    output, sent, _ = yield from super().compress(h, basis, key)  # type: ignore[misc]
    basis = yield Each(linalg.left_singular_basis('gram'), h)
    return output, sent, basis


class LastStep(_LastStep, GreedyLore):
  """GreedyLore whose basis is that of the step before."""


class LastStepExactChoice(_LastStep, ExactChoice):
  """Both at once."""


@dataclasses.dataclass(frozen=True)
class Best(Compressor):
  """The strongest directions of this very step."""

  rank: int

  def compress(self, h: Any, state: Any, key: Any) -> Any:
    """One round: their factor."""
    basis = yield Each(linalg.left_singular_basis('gram'), h)
    output, sent, _ = yield from parts.project(h, basis[..., : self.rank])
    return output, sent, state


@dataclasses.dataclass(frozen=True)
class PastSketches(Compressor):
  """A basis of what all workers know from earlier messages.

  Workers sketch H by m random mixtures of the last factor's rows, as PowerSGD
  sketches it by all of them. The r directions are the range of

    C = Y Y^T + decay * (Y' Y'^T + m P R R^T P^T + decay * ...)

  where Y is this sketch, Y' what an earlier one had outside of its P, and P R
  an earlier output. So fewer than r columns are sent for r directions.
  """

  rank: int
  probes: int
  decay: float

  linear = True
  takes_several = True

  def init(self, k: int, a: int, b: int, dtype: Any) -> Any:
    """No past, and Gaussian rows."""
    rows = jax.random.normal(jax.random.key(0), (k, self.rank, b), dtype)
    return jnp.zeros((k, a, a), dtype), rows

  def compress(self, h: Any, state: Any, key: Any) -> Any:
    """Two rounds: the sketch, then the factor."""
    past, rows = state
    k, a, _ = h.shape
    shape = k, self.rank, self.probes + a
    mixtures = yield from parts.normal(key, shape, h.dtype)
    v = rows.mT @ mixtures[..., : self.probes]
    v = v / jnp.linalg.norm(v, axis=1, keepdims=True) * h.shape[2] ** 0.5
    y, _ = yield h @ v
    c = y @ y.mT + self.decay * past
    p = yield Each(linalg.orthonormal, c @ mixtures[..., self.probes :].mT)
    output, sent, rows = yield from parts.project(h, p)
    rest = y - p @ (p.mT @ y)
    known = p @ rows
    past = self.decay * past
    past = past + rest @ rest.mT + self.probes * known @ known.mT
    return output, sent, (past, rows)
