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
  """What a worker holds for one fragment; `sent` with a delay only."""

  delta: PyTree
  outer: OptState
  sent: PyTree = None


class RoundEnd(NamedTuple):
  """What a step does to a fragment besides the worker's own step.

  Attributes:
    outer: the outer chain.
    is_now: whether a round ends whose outcome x receives in this step.
    departs: whether a round ends whose outcome x receives later.
    arrives: whether the outcome of an earlier round is due.
  """

  outer: optax.GradientTransformationExtraArgs
  is_now: Array
  departs: Array
  arrives: Array

  def __call__(
    self, held: Held, params: Params, count: Array
  ) -> tuple[Updates, Held]:
    """The update of x in this step, and what is held after it."""
    if held.sent is None:
      moved, delta, outer = self._exchanged(held.delta, held, params, count)
      return moved, Held(delta, outer)
    # x receives one outcome in a step: that of this round or an earlier one.
    moving = _where(self.is_now, held.delta, held.sent)
    moved, moving, outer = self._exchanged(moving, held, params, count)
    finite = all_finite(jax.tree.leaves(held.delta))
    own = jax.tree.map(lambda d: jnp.where(finite, d, 0), held.delta)
    nothing = jax.tree.map(_zeros_like, held.delta)
    sent = _where(self.arrives, nothing, held.sent)
    return moved, Held(
      _where(self.is_now | self.departs, nothing, held.delta),
      outer,
      _where(self.departs, own, sent),
    )

  def _exchanged(
    self, moving: PyTree, held: Held, params: Params, count: Array
  ) -> tuple[Updates, PyTree, OptState]:
    """(update of x, what still moves, outer state)."""

    def stay(moving: PyTree, outer_state: OptState) -> Any:
      return jax.tree.map(jnp.zeros_like, params), moving, outer_state

    def end(moving: PyTree, outer_state: OptState) -> Any:
      moved, state = _exchange(self.outer, moving, outer_state, params)
      _check_averaged(moved, count)
      return moved, jax.tree.map(_zeros_like, moving), state

    result: tuple[Updates, PyTree, OptState] = jax.lax.cond(
      self.is_now | self.arrives, end, stay, moving, held.outer
    )
    return result


def _exchange(
  outer: optax.GradientTransformationExtraArgs,
  moving: PyTree,
  outer_state: OptState,
  params: Params,
) -> tuple[Updates, OptState]:
  """The update of x, equal on all workers, from how far each has moved."""
  finite = all_finite(jax.tree.leaves(moving))
  gradient = jax.tree.map(
    lambda d, x: jnp.where(finite, -d, 0).astype(x.dtype), moving, params
  )
  moved, new_state = outer.update(gradient, outer_state, params)
  # Received by all, so all agree on whether the round counts.
  finite = all_finite(jax.tree.leaves(moved))
  keep = lambda new, old: jnp.where(finite, new, old)
  moved = jax.tree.map(lambda x: jnp.where(finite, x, 0), moved)
  return moved, jax.tree.map(keep, new_state, outer_state)


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def _zeros_like(x: Array) -> Array:
  """Zeros of the same type, also in what JAX says it varies over."""
  return worker_axes.varying_like(jnp.zeros(x.shape, x.dtype), x)


def _check_averaged(updates: Updates, count: Array) -> None:
  """Raises if JAX's types say that the workers' updates differ."""
  expected = worker_axes.varying_axes(count)
  for path, x in jax.tree_util.tree_leaves_with_path(updates):
    if axes := sorted(worker_axes.varying_axes(x) - expected):
      raise ValueError(
        f'The update of {checks.path_name(path)!r} differs over {axes}, because'
        ' outer does not average it: begin outer with gl.compress_gradients or'
        ' gl.average_gradients over that axis.'
      )
