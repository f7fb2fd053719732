"""Leaves that are not trained: nothing is sent."""

import dataclasses

import jax.numpy as jnp

from greedylore_jax._src.types import Array, PyTree
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class Frozen(Compressor):
  """Sends nothing: the update is zero and no error is kept.

  Unlike other methods it also holds for leaves that are not matrices. What
  follows in the chain still sees the leaf, so exclude it from weight decay.
  With `local_updates`, the inner optimizer would move it during a round:
  exclude it there, too.

  Example:
    >>> import greedylore_jax as gl
    >>> rules = [('^encoder/', gl.Frozen()), ('', gl.PowerSGD(8))]
    >>> tx = gl.compress_gradients(rules, 'data')
  """

  linear = True
  takes_several = True

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """No round at all."""
    del key
    yield from ()
    return jnp.zeros(h.shape, h.dtype), None, state
