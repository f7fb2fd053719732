"""What the workers exchange in one step of all leaves."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.engine import groups as groups_lib
from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine import phases as phases_lib
from greedylore_jax._src.engine.leaf import Leaf
from greedylore_jax._src.engine.schedule import Schedule
from greedylore_jax._src.types import Array, AxisName, PyTree


class Given(NamedTuple):
  """What a step starts from; lists have an entry per leaf.

  Attributes:
    grads: this worker's gradients.
    errors: this worker's errors.
    states: compressor states, equal on all workers.
    count: of the step.
    key: PRNG key of the step, equal on all workers.
  """

  grads: list[Array]
  errors: list[PyTree]
  states: list[PyTree]
  count: Array  # type: ignore[assignment]
  key: Array


class Exchanged(NamedTuple):
  """The outcome of a step; lists have an entry per leaf.

  If anything received is not `finite`, updates are NaN, and errors and states
  are those from before the step.
  """

  updates: list[Array]
  errors: list[PyTree]
  states: list[PyTree]
  finite: Array


def exchange(
  leaves: Sequence[Leaf], schedule: Schedule, given: Given, axis_name: AxisName
) -> Exchanged:
  """One step of all leaves: feed, send, update the errors."""
  # What is to be sent: gradients plus errors, of equal shapes as one stack.
  h = [
    leaf.feed(g, error)
    for leaf, g, error in zip(leaves, given.grads, given.errors, strict=True)
  ]
  groups = groups_lib.group(leaves)
  phases = phases_lib.Phases(
    leaves=leaves,
    schedule=schedule,
    groups=groups,
    axis_name=axis_name,
    h=groups_lib.stack_all(groups, h),
    turn=schedule.turn(given.count),
    keys=leaf_keys(given.key, len(leaves)),
  )
  # The rounds of the phase that is due.
  done = phases.run_due(schedule.index(given.count), given.states)
  # What was received, and what is left to be sent later.
  keep = lambda new, old: jnp.where(
    done.finite, leaf_lib.narrowed(new, old.dtype), old
  )
  updates, errors = [], []
  for leaf, g, error, h_own, output, sent in zip(
    leaves,
    given.grads,
    given.errors,
    groups_lib.unstack_all(groups, phases.h),
    groups_lib.unstack_all(groups, done.outputs),
    groups_lib.unstack_all(groups, done.sents),
    strict=True,
  ):
    update = jnp.where(done.finite, output, jnp.nan)
    updates.append(leaf_lib.narrowed(update, g.dtype))
    left = leaf.update_error(error, h_own, output, sent)
    errors.append(jax.tree.map(keep, left, error))
  return Exchanged(updates, errors, done.states, done.finite)


def leaf_keys(key: Array, count: int) -> Array:
  """The PRNG keys of so many leaves in a step of this key, [count]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
