"""Methods that know something for which no bytes are counted.

They show what each cause of GreedyLore's loss costs. They are for one worker
that replays mean gradients, whose H is the mean itself.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Each
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.greedylore import GreedyLore


@dataclasses.dataclass(frozen=True)
class Informed(GreedyLore):
  """GreedyLore with free knowledge.

  Args:
    knows_energies: whether the directions are chosen by their exact energies
      instead of by probes.
    knows_last_step: whether the basis is that of the step before.
  """

  knows_energies: bool = False
  knows_last_step: bool = False

  def compress(self, h: Any, basis: Any, key: Any) -> Any:
    """The factor of the chosen directions, and the scores if it needs them."""
    if self.knows_energies:
      energies = jnp.sum((basis.mT @ h) ** 2, axis=-1)
      p = yield from parts.top_columns(basis, energies, self.rank)
      output, sent, _ = yield from parts.project(h, p)
    else:
      output, sent, _ = yield from super().compress(h, basis, key)
    if self.knows_last_step:
      basis = yield Each(linalg.left_singular_basis('gram'), h)
    return output, sent, basis


@dataclasses.dataclass(frozen=True)
class Best(Compressor):
  """The `rank` strongest directions of the current step."""

  rank: int

  def compress(self, h: Any, state: Any, key: Any) -> Any:
    """One round: their factor."""
    basis = yield Each(linalg.left_singular_basis('gram'), h)
    output, sent, _ = yield from parts.project(h, basis[..., : self.rank])
    return output, sent, state
