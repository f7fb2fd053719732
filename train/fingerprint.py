"""A number per array that changes with any of its bits, wherever it lies."""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def of(tree: Any) -> dict[str, int]:
  """{path: number} of a tree of arrays, in the order of its leaves.

  The number is sum_i (2 i + 1) bits_i mod 2^32, with bits_i those of entry i as
  an integer: exact in any order of summation, so the same for every sharding
  and number of devices, and different if any one entry is. For a replicated
  array it is that of this process's own copy.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  numbers = _numbers([leaf for _, leaf in leaves])
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='.')
  return {
      name(path): int(number)
      for (path, _), number in zip(leaves, numbers, strict=True)
  }


@jax.jit
def _numbers(leaves: list[jax.Array]) -> list[jax.Array]:
  return [_number(leaf) for leaf in leaves]


def _number(x: jax.Array) -> jax.Array:
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize])
  bits = bits.astype(jnp.uint32)
  index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
  for axis in reversed(range(bits.ndim)):
    along = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    index += along * jnp.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)
