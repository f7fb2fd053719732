"""Leaves of equal shape, exchanged as one stack.

The time that XLA needs to compile a step grows with the number of operations in
it. A model has hundreds of leaves but few shapes, so leaves that differ only in
their paths are stacked and passed to their compressor together.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.engine import leaf as _leaves
from greedylore_jax._src.engine import matrices as _matrices
from greedylore_jax._src.wire import inner_axes as _spread

# Up to so many leaves compile in seconds, which is not worth copies.
_FEW = 16


@dataclasses.dataclass(frozen=True)
class Group:
  """Leaves that are exchanged as one.

  Attributes:
    leaf: the members as one leaf, stacked along a new first axis. A single
      member is the leaf itself.
    members: their indices among all leaves.
  """

  leaf: _leaves.Leaf
  members: tuple[int, ...]

  @property
  def is_stack(self) -> bool:
    """Whether there are several members."""
    return len(self.members) > 1

  def stack(self, of_leaves: Sequence[jax.Array]) -> jax.Array:
    """The members' arrays as one, n times [*shape] -> [n, *shape]."""
    arrays = [of_leaves[i] for i in self.members]
    return jnp.stack(arrays) if self.is_stack else arrays[0]

  def unstack(self, stacked: jax.Array) -> Sequence[jax.Array]:
    """The inverse of `stack`."""
    return jnp.unstack(stacked) if self.is_stack else [stacked]

  def join(self, of_leaves: Sequence[Any]) -> Any:
    """The members' compressor states as one, n times [k, ...] -> [n k, ...]."""
    join = lambda *xs: jnp.concatenate(xs) if self.is_stack else xs[0]
    return jax.tree.map(join, *(of_leaves[i] for i in self.members))

  def part(self, joined: jax.Array) -> list[jax.Array]:
    """The members' parts of one array that `join` returned."""
    return jnp.split(joined, len(self.members)) if self.is_stack else [joined]

  def key(self, of_leaves: jax.Array) -> jax.Array:
    """The members' PRNG keys, [n]; the key itself of a single member."""
    first, *others = self.members
    return of_leaves[np.array(self.members) if others else first]

  def has(self, leaf: jax.Array) -> jax.Array:
    """Whether the leaf of this index is a member."""
    return jnp.any(jnp.array(self.members) == leaf)

  def pick(self, leaf: jax.Array, x: jax.Array) -> jax.Array:
    """One member's rows of what `stack` or `join` returned."""
    start, size = self._rows(leaf, x)
    return jax.lax.dynamic_slice_in_dim(x, start, size)

  def put(self, leaf: jax.Array, x: jax.Array, new: jax.Array) -> jax.Array:
    """The same with other rows for one member, if the leaf is one."""
    if not self.is_stack:
      return jnp.where(self.has(leaf), new.reshape(x.shape), x)
    start, _ = self._rows(leaf, x)
    new = new.reshape(-1, *x.shape[1:])
    changed = jax.lax.dynamic_update_slice_in_dim(x, new, start, 0)
    return jnp.where(self.has(leaf), changed, x)

  def _rows(self, leaf: jax.Array, x: jax.Array) -> tuple[Any, int]:
    size = len(x) // len(self.members)
    return jnp.argmax(jnp.array(self.members) == leaf) * size, size


def group(leaves: Sequence[_leaves.Leaf]) -> list[Group]:
  """All leaves in groups.

  A stack costs the memory of a copy, so leaves stay alone if there are only a
  few of them, as with layers stacked for `jax.lax.scan`, or if nothing is
  compressed. They also stay alone if their compressor does not take several
  (see `Compressor`), or if a worker is several devices, over which each leaf
  may be sharded in its own way.
  """
  may_stack = (
    len(leaves) > _FEW
    and any(leaf.compressor for leaf in leaves)
    and _spread.devices_per_worker() == 1
  )
  groups = []
  for members in _leaves.alike(dict(enumerate(leaves))).values():
    one = leaves[members[0]]
    if len(members) > 1 and may_stack and _takes_several(one):
      groups.append(Group(_stacked(one, len(members)), tuple(members)))
    else:
      groups += [Group(leaves[i], (i,)) for i in members]
  return groups


def _takes_several(leaf: _leaves.Leaf) -> bool:
  if leaf.compressor is None:
    return True
  return getattr(leaf.compressor, 'takes_several', False)


def _stacked(leaf: _leaves.Leaf, count: int) -> _leaves.Leaf:
  """So many leaves as one."""
  shape, m = (count, *leaf.shape), leaf.matrices
  if m is not None:
    stack, rows, columns = (tuple(i + 1 for i in axes) for axes in m.axes)
    axes = (0, *stack), rows, columns
    m = _matrices.Matrices(shape, axes, count * m.k, m.a, m.b)
  return dataclasses.replace(leaf, path='', shape=shape, matrices=m)
