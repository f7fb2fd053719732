"""Leaves that are not trained: nothing is sent."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import compressor as base


@dataclasses.dataclass(frozen=True)
class Frozen(base.Memoryless):
  """Sends nothing: the update is zero and no error is kept.

  Unlike other methods it also holds for leaves that are not matrices. What
  follows in the chain still sees the leaf, so exclude it from weight decay.

  Example:
    >>> import greedylore_jax as gl
    >>> rules = [('^encoder/', gl.Frozen()), ('', gl.PowerSGD(8))]
    >>> tx = gl.compress_gradients(rules, 'data')
  """

  linear = True

  def compress(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """No round at all."""
    del key
    yield from ()
    return jnp.zeros(h.shape, h.dtype), None, memory
