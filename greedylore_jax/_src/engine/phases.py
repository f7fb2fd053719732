"""The rounds of all leaves, a phase at a time."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.engine import groups as groups_lib
from greedylore_jax._src.engine.groups import Group
from greedylore_jax._src.engine.leaf import Leaf
from greedylore_jax._src.engine.schedule import REFRESH, Schedule
from greedylore_jax._src.types import Array, AxisName, PyTree
from greedylore_jax._src.wire import rounds
from greedylore_jax._src.wire.transport import Transport, all_finite


class Done(NamedTuple):
  """The outcome of a phase: stacks per group, compressor states per leaf.

  A stack in `sents` is None if no error is kept.
  """

  outputs: list[Array]
  sents: list[Array | None]
  states: list[PyTree]
  finite: Array


@dataclasses.dataclass(frozen=True)
class Phases:
  """What can be done in a step; `run_due` does it.

  Attributes:
    leaves: all leaves.
    schedule: which phase comes when.
    groups: the leaves in groups of equal shape, so that the number of
      operations in a phase grows with the number of shapes.
    axis_name: of the workers.
    h: gradients plus errors, a stack per group.
    turn: the leaf that is refreshed in addition, if refreshes are staggered.
    keys: a PRNG key per leaf.
  """

  leaves: Sequence[Leaf]
  schedule: Schedule
  groups: Sequence[Group]
  axis_name: AxisName
  h: list[Array]
  turn: Array
  keys: Array

  def run_due(self, index: Array, states: list[PyTree]) -> Done:
    """Runs the phase of this index.

    A refresh is a loop of one turn or none, not a branch: a loop updates its
    operands in place, while XLA copies what comes out of a branch, and most
    steps would copy every basis without changing it. Loops for all phases would
    hold outputs of zeros through the backward pass.
    """
    names = self.schedule.phases
    loops = [x for x in names if x.startswith(REFRESH)]
    if loops == names:
      loops = []
    branches: list[Callable[[list[PyTree]], Done]] = [
      self._skip if x in loops else functools.partial(self._run, x)
      for x in names
    ]
    done: Done = jax.lax.switch(index, branches, states)
    for x in loops:
      loop = lambda before, x=x: self._run(x, before.states)
      done = _only_if(index == names.index(x), loop, done)
    return done

  def _run(self, phase: str, states: list[PyTree]) -> Done:
    """Runs the rounds of one phase."""
    with jax.named_scope(f'greedylore.{phase}'):
      old = [group.join(states) for group in self.groups]
      generators, dtypes = [], []
      for group, h, state in zip(self.groups, self.h, old, strict=True):
        leaf = group.leaf
        own = self.schedule.of_leaf(phase, leaf.update_interval)
        exchange = leaf.rounds(own)
        generators.append(exchange(h, state, group.key(self.keys)))
        dtypes.append(leaf.wire_dtype(own))
      members = self.schedule.members(phase)
      if members:
        leaf = self.leaves[members[0]]
        h, state = groups_lib.pick_one(
          self.groups, members, self.turn, list(zip(self.h, old, strict=True))
        )
        refresh = leaf.rounds(REFRESH)
        key = self.keys[self.turn]
        generators.append(refresh(h.reshape(leaf.shape), state, key))
        dtypes.append(leaf.wire_dtype(REFRESH))
      transport = Transport(self.axis_name)
      returned = rounds.run(generators, dtypes, transport)
      if members:
        refreshed = returned.pop()
        groups_lib.put_one(self.groups, members, self.turn, returned, refreshed)
      outputs, sents, new = _unzip(returned, 3)
      # A decomposition can fail, too; states are equal on all, so all agree.
      finite = transport.finite & all_finite(_changed(new, old))
      outputs = [
        x.astype(h.dtype) for x, h in zip(outputs, self.h, strict=True)
      ]
      kept = self._keep(finite, new, old, states)
      return Done(outputs, sents, kept, finite)

  def _skip(self, states: list[PyTree]) -> Done:
    """The outcome of a phase that is not due, to be replaced."""
    outputs = [jnp.zeros(x.shape, x.dtype) for x in self.h]
    sents = [
      jnp.zeros_like(x) if group.leaf.keeps_error else None
      for x, group in zip(self.h, self.groups, strict=True)
    ]
    return Done(outputs, sents, states, jnp.array(True))

  def _keep(
    self, finite: Array, new: Any, old: Any, states: list[PyTree]
  ) -> list[PyTree]:
    """The compressor states per leaf; the old ones unless all is finite."""
    keep = lambda new, old: jnp.where(finite, new, old).astype(old.dtype)
    kept = list(states)
    for group, x, y in zip(self.groups, new, old, strict=True):
      before = [jax.tree.leaves(states[i]) for i in group.members]
      rows = [
        olds if a is b else list(map(keep, group.part(a), olds))
        for a, b, *olds in zip(
          jax.tree.leaves(x), jax.tree.leaves(y), *before, strict=True
        )
      ]
      treedef: Any = jax.tree.structure(x)
      columns = _unzip(rows, len(group.members))
      for i, column in zip(group.members, columns, strict=True):
        kept[i] = treedef.unflatten(column)
    return kept


def _only_if(
  condition: Array, function: Callable[[Any], Any], given: Any
) -> Any:
  """function(given) if the condition holds, else what was given."""
  once = lambda x: (jnp.array(False), function(x[1]))
  return jax.lax.while_loop(lambda x: x[0], once, (condition, given))[1]


def _unzip(rows: Iterable[Sequence[Any]], width: int) -> tuple[list[Any], ...]:
  """Rows of `width` entries as `width` lists, also of no rows."""
  rows = list(rows)
  return tuple([row[i] for row in rows] for i in range(width))


def _changed(new: PyTree, old: PyTree) -> list[Array]:
  """The arrays that are not those of before."""
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
  return [x for x, y in pairs if x is not y]
