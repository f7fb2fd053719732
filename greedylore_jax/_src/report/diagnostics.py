"""How well compression does while it runs, without a round of its own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.types import Array, Updates


class Diagnostics(NamedTuple):
  """What a step of compression kept and left; equal on all workers.

  The numbers are over the compressed leaves together, scalars in float32.

  Attributes:
    captured_energy: 1 - sum_i ||H_i - S_i||^2 / sum_i ||H_i||^2, the share of
      the squared norm of gradient plus error that was sent; 1 is everything.
    error_to_gradient: the norm of what is kept for later over that of the
      gradients, as root mean squares over the workers. It settles at a level
      that depends on the method; if it grows all the time, too little is sent.
    basis_drift: of methods with a basis, the share of its leading directions
      that is outside of those of the step before; 0 between refreshes, near 0
      after one if gradients keep their directions, and NaN without a basis.
    by_leaf: the same of each compressed leaf alone, [leaves], in the order of
      `Plan.leaves`.
  """

  captured_energy: Array
  error_to_gradient: Array
  basis_drift: Array
  by_leaf: 'Diagnostics | None' = None


class Observer:
  """Sees what `compress_gradients` does while a step is traced.

  It is passed to `tx.update` as the extra argument `observe`, which
  `optax.chain` passes on.
  """

  def __init__(self) -> None:
    self.forget()

  def forget(self) -> None:
    """Starts again, for another call of `tx.update` in the same step."""
    self._seen: list[list[Any]] = []

  def __call__(
    self,
    leaves: Sequence[Leaf],
    grads: Updates,
    before: CompressState,
    after: CompressState,
  ) -> None:
    """Called once per compression: its leaves, gradients and states."""
    treedef: Any = jax.tree.structure(grads)
    columns = (
      grads,
      before.error,
      after.error,
      before.compressor_state,
      after.compressor_state,
    )
    rows = zip(leaves, *map(treedef.flatten_up_to, columns), strict=True)
    self._seen.append(
      [row for row in rows if isinstance(row[0], CompressedLeaf)]
    )

  def energies(self) -> Array:
    """This worker's squared norms of G, H and what is kept, [leaves, 3]."""
    rows = []
    for leaf, g, e_old, e_new, *_ in self._compressed():
      if not jax.tree.leaves(e_old):
        raise ValueError(
          'diagnose=True measures errors, and error_feedback=False keeps'
          ' none: leave diagnose at False.'
        )
      wide = (x.astype(jnp.float32) for x in (g, leaf.feed(g, e_old), e_new))
      rows.append(jnp.stack([jnp.sum(x**2) for x in wide]))
    return jnp.stack(rows) if rows else jnp.zeros((0, 3))

  def diagnostics(self, mean_energies: Array) -> Diagnostics:
    """From the mean over the workers of their `energies`."""
    drifts = [_drifts(leaf, *of) for leaf, _, _, _, *of in self._compressed()]
    sums = jnp.stack([jnp.zeros(2), *drifts])
    together = _diagnostics(
      jnp.sum(mean_energies, axis=0), jnp.sum(sums, axis=0)
    )
    each = _diagnostics(mean_energies.T, sums[1:].T)
    return together._replace(by_leaf=each)

  def _compressed(self) -> list[Any]:
    """(leaf, G, error and compressor state before and after) per matrix."""
    if len(self._seen) != 1:
      raise ValueError(
        'diagnose=True needs exactly one compress_gradients in tx, found'
        f' {len(self._seen)}.'
      )
    return self._seen[0]


def _drifts(leaf: CompressedLeaf, before: Any, after: Any) -> Array:
  """The sum of the drifts of a leaf's matrices, and how many have one, [2]."""
  p, q = map(leaf.compressor.leading, (before, after))
  if p is None or q is None:
    return jnp.zeros(2)
  shared = jnp.sum((p.mT @ q) ** 2, axis=(1, 2)) / q.shape[2]
  return jnp.stack([jnp.sum(1 - shared), jnp.float32(len(shared))])


def _diagnostics(energies: Array, drifts: Array) -> Diagnostics:
  """Of (G, H, kept), as squared norms, and of the results of `_drifts`."""
  g, h, kept = energies
  outside, count = drifts
  return Diagnostics(1 - kept / h, jnp.sqrt(kept / g), outside / count)
