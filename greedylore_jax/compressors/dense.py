"""The baseline: every number is sent."""

import dataclasses

from greedylore_jax._src.types import Array, PyTree
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class Dense(Compressor):
  """The plain mean of the gradients: output = mean_i G_i.

  Example:
    >>> import greedylore_jax as gl
    >>> rules = [('norm|bias', gl.Dense()), ('', gl.PowerSGD(8))]
    >>> tx = gl.compress_gradients(rules, 'data')
  """

  linear = True
  takes_several = True

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """A round with everything in it."""
    return parts.dense(h, state, key)
