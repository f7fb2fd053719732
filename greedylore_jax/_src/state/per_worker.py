"""What each worker has for itself, with a leading axis of the workers."""

from typing import NamedTuple

import jax

from greedylore_jax._src.types import PyTree


class PerWorker(NamedTuple):
  """A tree of which every worker holds its own.

  Attributes:
    tree: its leaves are [1, *shape] on a worker and [N, *shape] on the mesh.
  """

  tree: PyTree

  @property
  def own(self) -> PyTree:
    """This worker's tree, without the leading axis."""
    return jax.tree.map(lambda x: x[0], self.tree)


def of(tree: PyTree) -> PerWorker:
  """One worker's tree, with the leading axis."""
  return PerWorker(jax.tree.map(lambda x: jax.numpy.asarray(x)[None], tree))


def is_per_worker(x: object) -> bool:
  """Whether every worker holds its own of this."""
  return isinstance(x, PerWorker)
