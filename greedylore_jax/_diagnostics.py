"""How well compression does while it runs, without a round of its own."""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax import _compress
from greedylore_jax import _feedback
from greedylore_jax import _leaves
from greedylore_jax import _policy


class Diagnostics(NamedTuple):
  """What a step of compression kept and left; equal on all workers.

  All are over the compressed leaves together, scalars in float32.

  Attributes:
    captured_energy: 1 - sum_i ||H_i - S_i||^2 / sum_i ||H_i||^2, the share of
      the squared norm of gradient plus error that was sent; 1 is everything.
    error_to_gradient: the norm of what is kept for later over that of the
      gradients, as root mean squares over the workers. It settles at a level
      that depends on the method; if it grows all the time, too little is sent.
    basis_drift: of methods with a basis, the share of its leading directions
      that lies outside of those of the step before; 0 between refreshes, near 0
      after one if gradients keep their directions, and NaN without a basis.
  """

  captured_energy: jax.Array
  error_to_gradient: jax.Array
  basis_drift: jax.Array


def energies(grads: Any, before: Any, after: Any) -> jax.Array:
  """This worker's squared norms of G, H and what is kept of H, [3].

  Args:
    grads: its gradients.
    before: the optimizer state with which the step began.
    after: the one with which it ended.
  """
  old, new = _state(before), _state(after)
  treedef: Any = jax.tree.structure(grads)
  total = jnp.zeros(3)
  for g, e_old, e_new, memory in zip(
      treedef.flatten_up_to(grads),
      treedef.flatten_up_to(old.error),
      treedef.flatten_up_to(new.error),
      treedef.flatten_up_to(new.memory),
      strict=True,
  ):
    if not jax.tree.leaves(e_old):
      continue
    g, e_old, e_new = (x.astype(jnp.float32) for x in (g, e_old[0], e_new[0]))
    # Under EF21 the state holds -D_i, and what the others lack is G_i - D_i.
    kept = g + e_new if isinstance(memory, _feedback.Tracked) else e_new
    total += jnp.stack([jnp.sum(x**2) for x in (g, g + e_old, kept)])
  return total


def diagnostics(
    compressor: _policy.Compressors,
    mean_energies: jax.Array,
    before: Any,
    after: Any,
) -> Diagnostics:
  """From the mean over the workers of their `energies`."""
  g, h, kept = mean_energies
  return Diagnostics(
      1 - kept / h, jnp.sqrt(kept / g), _drift(compressor, before, after)
  )


def _drift(
    compressor: _policy.Compressors, before: Any, after: Any
) -> jax.Array:
  """The mean over all compressed matrices."""
  method_of = _policy.Policy(compressor).compressor_of
  is_leaf = lambda x: isinstance(x, optax.MaskedNode)
  old, new = _state(before), _state(after)
  outside, count = jnp.zeros([]), 0
  errors = jax.tree_util.tree_leaves_with_path(new.error, is_leaf=is_leaf)
  treedef: Any = jax.tree.structure(new.error, is_leaf=is_leaf)
  for (path, _), was, now in zip(
      errors,
      treedef.flatten_up_to(old.memory),
      treedef.flatten_up_to(new.memory),
      strict=True,
  ):
    if is_leaf(now):
      continue
    method: Any = method_of(_leaves.path_name(path))
    if not hasattr(method, 'leading'):
      continue
    p, q = (method.leading(_feedback.remembered(x)) for x in (was, now))
    shared = jnp.sum((p.mT @ q) ** 2, axis=(1, 2)) / q.shape[2]
    outside += jnp.sum(1 - shared)
    count += len(shared)
  return outside / count if count else jnp.array(jnp.nan)


def _state(opt_state: Any) -> _compress.CompressState:
  """The only compression state in that of a chain."""
  is_state = lambda x: isinstance(x, _compress.CompressState)
  nodes = jax.tree.leaves(opt_state, is_leaf=is_state)
  found = [x for x in nodes if is_state(x)]
  if len(found) != 1:
    raise ValueError(
        'diagnostics need exactly one compress_gradients in the chain, found'
        f' {len(found)}.'
    )
  (state,) = found
  if jax.tree.leaves(state.memory) and not jax.tree.leaves(state.error):
    raise ValueError(
        'diagnostics are of errors, and error_feedback=False keeps none: leave'
        ' diagnose at None.'
    )
  return state
