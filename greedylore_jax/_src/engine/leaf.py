"""What a leaf of the parameters is to a compressor."""

import dataclasses
import math
from typing import Any

from greedylore_jax._src.engine import matrices as _matrices
from greedylore_jax.compressors import compressor as base


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One leaf and what was decided about it.

  Without `matrices` it is sent dense, or not at all if it is `frozen`.
  """

  path: str
  shape: tuple[int, ...]
  dtype: Any
  reason: str
  matrices: _matrices.Matrices | None = None
  compressor: base.Compressor | None = None
  frozen: bool = False

  @property
  def size(self) -> int:
    """How many numbers it has."""
    return math.prod(self.shape)


def alike(leaves: dict[int, Leaf]) -> dict[str, list[int]]:
  """Leaves that differ in their paths only, under a name such as '64x256'."""
  kinds: dict[Leaf, list[int]] = {}
  for i, leaf in leaves.items():
    kinds.setdefault(dataclasses.replace(leaf, path=''), []).append(i)
  named: dict[str, list[int]] = {}
  for leaf, members in kinds.items():
    shape = 'x'.join(map(str, leaf.shape))
    others = sum(name.split('_')[0] == shape for name in named)
    named[f'{shape}_{others + 1}' if others else shape] = members
  return named
