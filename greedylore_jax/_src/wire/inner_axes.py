"""The devices of one worker: how they share its arrays and its messages.

A worker is an index along the axes over which gradients are averaged. If the
mesh has other axes, left to XLA's partitioner (for FSDP or tensor parallelism),
a worker is several devices, and its arrays are sharded over these inner axes.
"""

import math

import jax
import jax.numpy as jnp

from greedylore_jax._src.types import Array, Function, PyTree, Shape, Spec

_P: Spec = jax.sharding.PartitionSpec


def names() -> tuple[str, ...]:
  """Returns the axes that are left to the partitioner in `jax.shard_map`.

  None, if all of them have a single device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  several = any(mesh.shape[axis] > 1 for axis in mesh.auto_axes)
  return tuple(mesh.auto_axes) if mesh.manual_axes and several else ()


def devices_per_worker() -> int:
  """Returns how many devices a worker is here."""
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape[axis] for axis in names())


def on_each_device(function: Function, *parts: Array) -> PyTree:
  """Calls a function on every device of a worker with the device's own part.

  Args:
    function: of arrays [1, ...], to a tree of such arrays.
    *parts: [devices, ...] each.

  Returns:
    The tree, with arrays [devices, ...].
  """
  axes = names()
  if not axes:
    return function(*parts)
  return jax.shard_map(
    function, axis_names=set(axes), in_specs=_P(axes), out_specs=_P(axes)
  )(*parts)


def constrain(x: Array, *spec: object) -> Array:
  """Shards an array over the inner axes as a `PartitionSpec(*spec)` says."""
  if not names():
    return x
  constrained: Array = jax.lax.with_sharding_constraint(x, _P(*spec))
  return constrained


def cut(x: Array, parts: int) -> Array:
  """Cuts an array into equal parts, [*shape] -> [parts, n].

  Every device of a worker sends one of them. The cut is across the longest axis
  that divides, so that a matrix is cut along its sharding if its longer side is
  sharded. An array without such an axis is padded with zeros.
  """
  axis = _longest(x.shape, parts)
  if axis is None:
    flat = jnp.pad(x.ravel(), (0, -x.size % parts))
  else:
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    flat = x.reshape(*before, parts, size // parts, *after)
    flat = jnp.moveaxis(flat, axis, 0)
  return flat.reshape(parts, part_size(x.size, parts))


def join(cut_up: Array, shape: Shape) -> Array:
  """Inverts `cut`, [parts, n] -> [*shape]."""
  parts = len(cut_up)
  axis = _longest(shape, parts)
  if axis is None:
    return cut_up.ravel()[: math.prod(shape)].reshape(shape)
  before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
  x = cut_up.reshape(parts, *before, size // parts, *after)
  return jnp.moveaxis(x, 0, axis).reshape(shape)


def part_size(size: int, parts: int) -> int:
  """Returns how many numbers each part of an array of `size` has."""
  return -(-size // parts)


def _longest(shape: Shape, parts: int) -> int | None:
  """The longest axis that divides into `parts`, the last of equal ones."""
  dividing = [i for i, size in enumerate(shape) if size % parts == 0]
  return max(dividing, key=lambda i: (shape[i], i), default=None)
