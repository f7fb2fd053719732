"""The baseline: every number is sent."""

import dataclasses
from typing import Any

import jax

from greedylore_jax._rounds import Rounds
from greedylore_jax.compressors import base


@dataclasses.dataclass(frozen=True)
class Dense:
  """The plain mean of the gradients: output = mean_i G_i."""

  update_interval = None
  linear = True

  def init(self, k: int, a: int, b: int, dtype: Any) -> tuple[()]:
    """Nothing to remember."""
    del k, a, b, dtype
    return ()

  def compress(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """A round with everything in it."""
    return base.dense(h, memory, key)
