"""The workers' axis: how many share it, and what JAX's types say about it."""

import jax

from greedylore_jax._src.types import Array, AxisName, PyTree


def num_workers(axis_name: AxisName) -> int:
  """Returns how many workers share the axis; explains a NameError."""
  if axis_name is None:
    return 1
  try:
    return int(jax.lax.axis_size(axis_name))
  except NameError:
    bound = jax.sharding.get_abstract_mesh().manual_axes
    here = f', only {", ".join(map(repr, bound))}' if bound else ''
    raise NameError(
      f'axis_name={axis_name!r} is not bound here{here}. Call the update'
      ' inside jax.shard_map, jax.pmap or jax.vmap over an axis of that name,'
      ' or use gl.make_train_step with it, which does; for a single worker'
      ' pass axis_name=None.'
    ) from None


def names(axis_name: AxisName) -> tuple[str, ...]:
  """Returns the axes by their names; none for a single worker."""
  if isinstance(axis_name, str):
    return (axis_name,)
  return tuple(axis_name or ())


def local(tree: PyTree, axis_name: AxisName) -> PyTree:
  """Types a tree as varying over the axis, so that gradients stay local."""

  def one(x: Array) -> Array:
    missing = tuple(missing_axes(x, axis_name))
    return jax.lax.pcast(x, missing, to='varying') if missing else x

  return jax.tree.map(one, tree)


def varying_like(x: Array, like: Array) -> Array:
  """Types an array as varying over every axis over which another one varies."""
  missing = varying_axes(like) - varying_axes(x)
  return jax.lax.pcast(x, tuple(missing), to='varying') if missing else x


def missing_axes(x: Array, axis_name: AxisName) -> list[str]:
  """Returns the axes over which `x` is known to be equal on all workers.

  Empty where JAX's types do not track this: under vmap, pmap and
  `check_vma=False`.
  """
  varying = varying_axes(x)
  return [
    axis
    for axis in names(axis_name)
    if types_know(axis) and axis not in varying
  ]


def types_know(axis_name: AxisName) -> bool:
  """Returns whether JAX's types say here what varies over the axis."""
  return bool(varying_axes(jax.lax.axis_index(axis_name)))


def varying_axes(x: Array) -> frozenset[str]:
  """Returns the mesh axes over which JAX's type of `x` says that it varies."""
  kind = jax.typeof(x)
  if hasattr(kind, 'manual_axis_type'):  # jax 0.11 and newer.
    return frozenset(kind.manual_axis_type.varying)
  return frozenset(getattr(kind, 'vma', ()))
