"""Parts of the parameters that are averaged at different times."""

from collections.abc import Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src.types import PyTree

Members = tuple[int, ...]
"""The leaves of a fragment, by their indices in the flattened tree."""

SCOPE = 'fragment_'
"""Begins the scope of what a fragment sends: 'fragment_1of4'."""


def assign(tree: PyTree, count: int) -> list[Members]:
  """The leaves of a tree in `count` fragments of about equal size.

  The largest leaf goes first, each into the fragment that is the smallest so
  far, so equal layers are dealt out in turn.

  Raises:
    ValueError: if there are fewer leaves than fragments.
  """
  sizes = [math.prod(jnp.shape(x)) for x in jax.tree.leaves(tree)]
  if count > 1 and 0 < len(sizes) < count:
    raise ValueError(
      f'fragments must be at most the number of leaves, {len(sizes)}, got'
      f' {count}.'
    )
  fragments: list[list[int]] = [[] for _ in range(count)]
  totals = [0] * count
  for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
    lightest = totals.index(min(totals))
    fragments[lightest].append(i)
    totals[lightest] += sizes[i]
  return [tuple(sorted(x)) for x in fragments]


def take(tree: PyTree, members: Members) -> PyTree:
  """The tree with `optax.MaskedNode()` for the leaves of other fragments."""
  leaves, treedef = jax.tree.flatten(tree)
  own = set(members)
  return jax.tree.unflatten(
    treedef,
    [x if i in own else optax.MaskedNode() for i, x in enumerate(leaves)],
  )


def merge(
  parts: Sequence[PyTree], fragments: Sequence[Members], like: PyTree
) -> PyTree:
  """Inverts `take`: the parts of all fragments as a tree like `like`."""
  treedef: Any = jax.tree.structure(like)
  leaves: list[Any] = [None] * treedef.num_leaves
  for part, members in zip(parts, fragments, strict=True):
    for i, x in zip(members, jax.tree.leaves(part), strict=True):
      leaves[i] = x
  return jax.tree.unflatten(treedef, leaves)
