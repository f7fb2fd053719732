"""How the devices of one worker share what it holds and what it sends.

A worker is an index along the axes over which gradients are averaged. If the
mesh has other axes, left to XLA's partitioner (for FSDP or tensor parallelism),
a worker is several devices, and its arrays lie spread over these inner axes.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

_P = jax.sharding.PartitionSpec


def inner_axes() -> tuple[str, ...]:
  """The axes that the partitioner is left to use inside of `jax.shard_map`.

  None, if all of them have one device only.
  """
  mesh = jax.sharding.get_abstract_mesh()
  several = any(mesh.shape[axis] > 1 for axis in mesh.auto_axes)
  return mesh.auto_axes if mesh.manual_axes and several else ()


def devices_per_worker() -> int:
  """How many devices a worker is here."""
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape[axis] for axis in inner_axes())


def on_each_device(function: Callable[..., Any], *parts: jax.Array) -> Any:
  """Calls it on every device of a worker with what is the device's own.

  Args:
    function: of arrays [1, ...], to a tree of such arrays.
    *parts: [devices, ...] each.

  Returns:
    The tree, with arrays [devices, ...].
  """
  axes = inner_axes()
  if not axes:
    return function(*parts)
  return jax.shard_map(
    function, axis_names=set(axes), in_specs=_P(axes), out_specs=_P(axes)
  )(*parts)


def hold(x: jax.Array, *spec: object) -> jax.Array:
  """The same array, spread over inner axes as a `PartitionSpec(*spec)` says."""
  if not inner_axes():
    return x
  return jax.lax.with_sharding_constraint(x, _P(*spec))


def cut(x: jax.Array, parts: int) -> jax.Array:
  """An array in equal parts, [*shape] -> [parts, n].

  Every device of a worker sends one of them. The cut is across the longest axis
  that divides, so that a matrix is cut as it lies if its longer side is spread.
  An array without such an axis is filled up with zeros.
  """
  axis = _longest(x.shape, parts)
  if axis is None:
    flat = jnp.pad(x.ravel(), (0, -x.size % parts))
  else:
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    flat = x.reshape(*before, parts, size // parts, *after)
    flat = jnp.moveaxis(flat, axis, 0)
  return flat.reshape(parts, part_size(x.size, parts))


def join(cut_up: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The inverse of `cut`, [parts, n] -> [*shape]."""
  parts = len(cut_up)
  axis = _longest(shape, parts)
  if axis is None:
    return cut_up.ravel()[: math.prod(shape)].reshape(shape)
  before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
  x = cut_up.reshape(parts, *before, size // parts, *after)
  return jnp.moveaxis(x, 0, axis).reshape(shape)


def part_size(size: int, parts: int) -> int:
  """Numbers in each part of an array of so many."""
  return -(-size // parts)


def _longest(shape: tuple[int, ...], parts: int) -> int | None:
  """The longest axis that divides into so many parts, the last of equals."""
  dividing = [i for i, size in enumerate(shape) if size % parts == 0]
  return max(dividing, key=lambda i: (shape[i], i), default=None)
