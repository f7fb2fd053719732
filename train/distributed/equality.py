"""Do all workers hold the same parameters?

Workers compute equal updates from equal messages, so their parameters are equal
bit by bit. A flipped bit in the memory of one device ends that, and nothing
else would report it: the worker continues with its own parameters.
"""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import machines

_AXES = machines.REPLICA, machines.FSDP, machines.TENSOR
_SHOWN = 3
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}
# Odd, so that multiplication by them is one to one (golden ratio; MurmurHash3).
_GOLDEN, _MIX = 0x9E3779B9, 0x85EBCA6B


class Unequal(Exception):
  """The workers hold different parameters."""


class Comparison:
  """Compares the parameters of the workers of a mesh.

  Each device hashes its own copy of every leaf, or its shard of it, to 32 bits.
  These hashes are all-gathered: 4 bytes per leaf and device. A change within
  one number is always found, any other one is missed once in 2^32 times.
  """

  def __init__(self, mesh: jax.sharding.Mesh):
    self._mesh = mesh
    self._hash: Any = None

  def check(self, params: Any, step: int) -> None:
    """Raises on every process unless the workers are equal after that step.

    Every process calls it.

    Raises:
      Unequal: naming the workers and the leaves.
    """
    if self._mesh.shape[machines.REPLICA] == 1:
      return
    if self._hash is None:
      self._hash = _compiled(self._mesh, params)
    hashes = np.asarray(self._hash(params))
    if (hashes == hashes[0]).all():
      return
    paths, _ = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
    names = [jax.tree_util.keystr(x, simple=True, separator='.') for x in paths]
    raise Unequal(_describe(hashes, names, self._mesh, step))


def _compiled(mesh: jax.sharding.Mesh, params: Any) -> Any:
  """From parameters to hashes, [replica, fsdp, tensor, leaves]."""

  def of_device(params: Any) -> jax.Array:
    hashes = jnp.stack([_hash(x) for x in jax.tree.leaves(params)])
    # JAX types copies as equal, which is what is to be found out.
    nothing = jnp.asarray(0 * sum(map(jax.lax.axis_index, _AXES)), jnp.uint32)
    return (hashes + nothing)[None, None, None]

  spec = jax.sharding.PartitionSpec
  each = jax.shard_map(
    of_device,
    mesh=mesh,
    in_specs=(jax.tree.map(lambda x: x.sharding.spec, params),),
    out_specs=spec(*_AXES),
  )
  everywhere = jax.sharding.NamedSharding(mesh, spec())
  return jax.jit(each, out_shardings=everywhere)


def _hash(x: jax.Array) -> jax.Array:
  """32 bits of all bits of an array and their places."""
  x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
  unsigned = _UNSIGNED.get(x.dtype.itemsize, jnp.uint32)
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()
  place = jax.lax.iota(jnp.uint32, bits.size) * jnp.uint32(_GOLDEN)
  mixed = (bits ^ place) * jnp.uint32(_MIX)
  mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(_GOLDEN)
  return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)


def _describe(
  hashes: np.ndarray, names: list[str], mesh: jax.sharding.Mesh, step: int
) -> str:
  """One line about which workers differ from most, and in which leaves."""
  rows = [row.tobytes() for row in hashes]
  most, count = collections.Counter(rows).most_common(1)[0]
  # Among two there is no majority.
  usual = hashes[rows.index(most)] if 2 * count > len(rows) else None
  odd = [i for i, row in enumerate(rows) if usual is None or row != most]
  reference = hashes[0] if usual is None else usual
  differing = (hashes != reference).any(axis=(0, 1, 2))
  leaves = [
    name for name, is_odd in zip(names, differing, strict=True) if is_odd
  ]
  more = f' and {len(leaves) - _SHOWN} more' if len(leaves) > _SHOWN else ''
  who = ', '.join(
    f'{i} (process {mesh.devices[i, 0, 0].process_index})' for i in odd
  )
  others = 'the others' if usual is not None else 'each other'
  return (
    'all workers must hold the same parameters, but after step'
    f' {step} worker{"s" * (len(odd) > 1)} {who} of {len(rows)} differ'
    f'{"s" * (len(odd) == 1)} from {others} in'
    f' {", ".join(leaves[:_SHOWN])}{more}: the memory or the arithmetic of a'
    ' device is at fault. Rerun the same command to resume from the last'
    ' checkpoint, without that device if this happens again.'
  )
