"""Leaves of equal shape, exchanged as one stack.

The time that XLA needs to compile a step grows with the number of operations in
it. A model has hundreds of leaves but few shapes, so leaves that differ only in
their paths are stacked and passed to their compressor together.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf
from greedylore_jax._src.types import Array, PyTree
from greedylore_jax._src.wire import inner_axes

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

  leaf: Leaf
  members: tuple[int, ...]

  @property
  def is_stack(self) -> bool:
    """Whether there are several members."""
    return len(self.members) > 1

  def stack(self, of_leaves: Sequence[Array]) -> Array:
    """The members' arrays as one, n times [*shape] -> [n, *shape]."""
    arrays = [of_leaves[i] for i in self.members]
    return jnp.stack(arrays) if self.is_stack else arrays[0]

  def unstack(self, stacked: Array) -> Sequence[Array]:
    """The inverse of `stack`."""
    return jnp.unstack(stacked) if self.is_stack else [stacked]

  def join(self, of_leaves: Sequence[PyTree]) -> PyTree:
    """The members' compressor states as one, n times [k, ...] -> [n k, ...]."""
    join = lambda *xs: jnp.concatenate(xs) if self.is_stack else xs[0]
    return jax.tree.map(join, *(of_leaves[i] for i in self.members))

  def part(self, joined: Array) -> list[Array]:
    """The members' parts of one array that `join` returned."""
    return jnp.split(joined, len(self.members)) if self.is_stack else [joined]

  def key(self, of_leaves: Array) -> Array:
    """The members' PRNG keys, [n]; the key itself of a single member."""
    first, *others = self.members
    return of_leaves[np.array(self.members) if others else first]

  def has(self, leaf: Array) -> Array:
    """Whether the leaf of this index is a member."""
    return jnp.any(jnp.array(self.members) == leaf)

  def pick(self, leaf: Array, x: Array) -> Array:
    """One member's rows of what `stack` or `join` returned."""
    start, size = self._rows(leaf, x)
    return jax.lax.dynamic_slice_in_dim(x, start, size)

  def put(self, leaf: Array, x: Array, new: Array) -> Array:
    """The same with other rows for one member, if the leaf is one."""
    if not self.is_stack:
      return jnp.where(self.has(leaf), new.reshape(x.shape), x)
    start, _ = self._rows(leaf, x)
    new = new.reshape(-1, *x.shape[1:])
    changed = jax.lax.dynamic_update_slice_in_dim(x, new, start, 0)
    return jnp.where(self.has(leaf), changed, x)

  def _rows(self, leaf: Array, x: Array) -> tuple[Any, int]:
    size = len(x) // len(self.members)
    return jnp.argmax(jnp.array(self.members) == leaf) * size, size


def group(leaves: Sequence[Leaf]) -> list[Group]:
  """All leaves in groups.

  A stack costs the memory of a copy, so leaves stay alone if there are only a
  few of them, as with layers stacked for `jax.lax.scan`, or if nothing is
  compressed. They also stay alone if their compressor does not take several
  (see `Compressor`), or if a worker is several devices, over which each leaf
  may be sharded in its own way.
  """
  may_stack = (
    len(leaves) > _FEW
    and any(isinstance(leaf, CompressedLeaf) for leaf in leaves)
    and inner_axes.devices_per_worker() == 1
  )
  groups = []
  for members in leaf_lib.of_equal_shape(enumerate(leaves)).values():
    one = leaves[members[0]]
    if len(members) > 1 and may_stack and one.takes_several:
      groups.append(Group(one.stacked(len(members)), tuple(members)))
    else:
      groups += [Group(leaves[i], (i,)) for i in members]
  return groups


def stack_all(
  groups: Sequence[Group], of_leaves: Sequence[Array]
) -> list[Array]:
  """An array per group of arrays per leaf."""
  return [group.stack(of_leaves) for group in groups]


def unstack_all(
  groups: Sequence[Group], stacks: Sequence[Array | None]
) -> list[Any]:
  """The inverse of `stack_all`; a stack may be None."""
  of_leaves: dict[int, Array | None] = {}
  for group, x in zip(groups, stacks, strict=True):
    parts = [None] * len(group.members) if x is None else group.unstack(x)
    of_leaves |= zip(group.members, parts, strict=True)
  return [of_leaves[i] for i in range(len(of_leaves))]


def pick_one(
  groups: Sequence[Group],
  members: Sequence[int],
  leaf: Array,
  of_groups: Sequence[PyTree],
) -> PyTree:
  """The rows of one leaf, which is one of the members."""
  pick = lambda j: jax.tree.map(
    functools.partial(groups[j].pick, leaf), of_groups[j]
  )
  which = _with(groups, members)
  turns = jnp.array([groups[j].has(leaf) for j in which])
  options = [functools.partial(pick, j) for j in which]
  return jax.lax.switch(jnp.argmax(turns), options)


def put_one(
  groups: Sequence[Group],
  members: Sequence[int],
  leaf: Array,
  of_groups: list[PyTree],
  new: PyTree,
) -> None:
  """Puts other rows in the place of one leaf, which is one of the members."""
  for j in _with(groups, members):
    put = functools.partial(groups[j].put, leaf)
    of_groups[j] = jax.tree.map(put, of_groups[j], new)


def _with(groups: Sequence[Group], members: Sequence[int]) -> list[int]:
  """The groups that these leaves are in."""
  return [
    j
    for j, group in enumerate(groups)
    if not set(members).isdisjoint(group.members)
  ]
