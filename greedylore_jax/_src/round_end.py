"""The end of a round of local steps, for the leaves of one fragment."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, OptState, Params, PyTree, Updates
from greedylore_jax._src.wire import worker_axes
from greedylore_jax._src.wire.transport import all_finite


class Held(NamedTuple):
  """What a worker holds for one fragment; the last three with a delay only."""

  delta: PyTree
  outer: OptState
  left: Any = None
  moves: Updates = None
  sent: PyTree = None


class RoundEnd(NamedTuple):
  """What the end of a round does to a fragment, if this step is one.

  Attributes:
    outer: the outer chain.
    is_end: whether the round ends with this step.
    delay: steps until x receives the outcome.
    waits: whether this round's outcome is delayed.
  """

  outer: optax.GradientTransformationExtraArgs
  is_end: Array
  delay: int
  waits: Array | int

  def __call__(
    self, held: Held, params: Params, count: Array
  ) -> tuple[Updates, Held]:
    """The update of x in this step, and what is held after it."""
    if not self.delay:
      moved, delta, outer = self._round(held, params, count)
      return moved, Held(delta, outer)
    # What is in flight arrives when it is due, at the latest with the next end.
    arrives = (held.left == 1) | (self.is_end & (held.left > 0))
    arrived = _where(arrives, held.moves, 0)
    sent = _where(arrives, 0, held.sent)
    left = jnp.where(arrives, 0, jnp.maximum(held.left - 1, 0))
    params = optax.apply_updates(params, arrived)
    moved, delta, outer = self._round(held, params, count)
    departs = self.is_end & self.waits
    finite = all_finite(jax.tree.leaves(held.delta))
    after = Held(
      delta,
      outer,
      jnp.where(departs, self.delay, left),
      _where(departs, moved, held.moves),
      _where(departs, _where(finite, held.delta, 0), sent),
    )
    now = _where(departs, 0, moved)
    return jax.tree.map(jnp.add, arrived, now), after

  def _round(
    self, held: Held, params: Params, count: Array
  ) -> tuple[Updates, PyTree, OptState]:
    """(update of x, delta, outer state), after the round if it ends."""

    def end_round(delta: PyTree, outer_state: OptState) -> Any:
      finite = all_finite(jax.tree.leaves(delta))
      gradient = jax.tree.map(
        lambda d, x: jnp.where(finite, -d, 0).astype(x.dtype), delta, params
      )
      moved, new_state = self.outer.update(gradient, outer_state, params)
      _check_averaged(moved, outer_state, new_state, count)
      # Received by all, so all agree on whether the round counts.
      finite = all_finite(jax.tree.leaves(moved))
      keep = lambda new, old: jnp.where(finite, new, old)
      outer_state = jax.tree.map(keep, new_state, outer_state)
      return (
        jax.tree.map(
          lambda move, x: jnp.where(finite, move, 0).astype(x.dtype),
          moved,
          params,
        ),
        jax.tree.map(_zeros_like, delta),
        outer_state,
      )

    def stay(delta: PyTree, outer_state: OptState) -> Any:
      return jax.tree.map(jnp.zeros_like, params), delta, outer_state

    result: tuple[Updates, PyTree, OptState] = jax.lax.cond(
      self.is_end, end_round, stay, held.delta, held.outer
    )
    return result


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
  """`jnp.where` on the leaves of two trees, one of which may be a number."""
  if isinstance(new, int):
    return jax.tree.map(lambda y: jnp.where(condition, new, y), old)
  if isinstance(old, int):
    return jax.tree.map(lambda x: jnp.where(condition, x, old), new)
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def _zeros_like(x: Array) -> Array:
  """Zeros of the same type, also in what JAX says it varies over."""
  return worker_axes.varying_like(jnp.zeros(x.shape, x.dtype), x)


def _check_averaged(
  updates: Updates, before: OptState, after: OptState, count: Array
) -> None:
  """Raises if JAX's types say that what all workers share would differ."""
  expected = worker_axes.varying_axes(count)
  for path, x in jax.tree_util.tree_leaves_with_path(updates):
    if axes := sorted(worker_axes.varying_axes(x) - expected):
      raise ValueError(
        f'The update of {checks.path_name(path)!r} differs over {axes}, because'
        ' outer does not average it: begin outer with gl.compress_gradients or'
        ' gl.average_gradients over that axis.'
      )
  differs = lambda new, old: bool(
    worker_axes.varying_axes(new) - worker_axes.varying_axes(old)
  )
  if any(jax.tree.leaves(jax.tree.map(differs, after, before))):
    raise ValueError(
      'The outer optimizer got what the workers have not averaged yet, so its'
      ' state would differ between them: begin outer with'
      ' gl.compress_gradients or gl.average_gradients, and let the outer'
      ' optimizer follow.'
    )
