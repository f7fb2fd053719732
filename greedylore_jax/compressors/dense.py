"""The baseline: every number is sent."""

import dataclasses
from typing import Any

import jax

from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import compressor as base


@dataclasses.dataclass(frozen=True)
class Dense(base.Memoryless):
  """The plain mean of the gradients: output = mean_i G_i.

  Example:
    >>> import greedylore_jax as gl
    >>> rules = [('norm|bias', gl.Dense()), ('', gl.PowerSGD(8))]
    >>> tx = gl.compress_gradients(rules, 'data')
  """

  linear = True

  def compress(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """A round with everything in it."""
    return base.dense(h, memory, key)
