"""What the workers exchange in a step, by the step's phase."""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.engine import feedback as _feedback
from greedylore_jax._src.engine import groups as _groups
from greedylore_jax._src.engine import leaf as _leaves
from greedylore_jax._src.engine import policy as _policy
from greedylore_jax._src.engine import schedule as _schedule
from greedylore_jax._src.wire import inner_axes as _spread
from greedylore_jax._src.wire import rounds as _rounds
from greedylore_jax._src.wire import transport as _transport
from greedylore_jax._src.wire import worker_axes as _axes


class Stepped(NamedTuple):
  """The outcome of a step: an entry per leaf, and whether all is finite."""

  updates: list[Any]
  errors: list[Any]
  memories: list[Any]
  finite: jax.Array


class _Exchanged(NamedTuple):
  """The outcome of a phase: stacks per group, compressor states per leaf."""

  outputs: list[Any]
  sents: list[Any]
  states: list[Any]
  finite: jax.Array


class Exchange:
  """The rounds of all leaves, in whichever phase the step is.

  Leaves of equal shape are stacked before a phase and separated after it, so
  the operations in a phase grow with the number of shapes, not of leaves.

  A refresh is a loop of one turn or none, not a branch: a loop updates its
  operands in place, while XLA copies what comes out of a branch, and most
  steps would copy every basis only to leave it as it was. (Loops for all phases
  would hold outputs of zeros through the backward pass.)
  """

  def __init__(
    self,
    policy: _policy.Policy,
    leaves: list[_leaves.Leaf],
    axis_name: _axes.AxisName,
    workers: int,
  ):
    self._policy, self._leaves = policy, leaves
    self._axis_name, self._workers = axis_name, workers
    self._schedule = policy.schedule(leaves)
    self._groups = _groups.group(leaves)
    self._shares = policy.shares(_spread.devices_per_worker())

  def __call__(
    self,
    grads: list[Any],
    errors: list[Any],
    memories: list[Any],
    count: jax.Array,
    key: jax.Array,
  ) -> Stepped:
    """One step.

    Args:
      grads: of each leaf, this worker's.
      errors: of each leaf, this worker's.
      memories: of each leaf, see `Policy.init`.
      count: of the step.
      key: of the step, equal on all workers.

    Returns:
      The updates and the new state; if what was received or is to be remembered
      is not finite, updates of NaN and the state as it was.
    """
    feedback = self._policy.feedback
    fed = list(map(feedback.fed, self._leaves, grads, errors))
    h = [group.stack(fed) for group in self._groups]
    states = list(map(_feedback.remembered, memories))
    outputs, sents, states, finite = self._in_phase(h, states, count, key)
    updates, errors, memories = unzip(
      map(
        functools.partial(feedback.fed_back, finite=finite),
        grads,
        self._unstack(h),
        errors,
        memories,
        self._unstack(outputs),
        self._unstack(sents),
        states,
      ),
      3,
    )
    return Stepped(updates, errors, memories, finite)

  def _in_phase(self, h, states, count, key) -> _Exchanged:
    """What comes of gradients plus errors in the phase of step `count`."""
    index, turn = self._schedule.index(count), self._schedule.turn(count)
    phases = self._schedule.phases
    loops = [x for x in phases if x.startswith(_schedule.REFRESH)]
    if loops == phases:
      loops = []
    feedback = self._policy.feedback
    keys = leaf_keys(key, len(self._leaves))
    run = lambda phase, states: self._run(phase, h, states, keys, turn)

    def branch(phase):
      if phase not in loops:
        return functools.partial(run, phase)
      outputs = [jnp.zeros(x.shape, x.dtype) for x in h]
      sents = [
        jnp.zeros_like(x) if feedback.kind and group.leaf.compressor else None
        for x, group in zip(h, self._groups, strict=True)
      ]
      return lambda states: _Exchanged(outputs, sents, states, jnp.array(True))

    exchanged = jax.lax.switch(index, list(map(branch, phases)), states)
    for phase in loops:
      loop: Any = lambda x, phase=phase: run(phase, x.states)
      exchanged = _only_if(index == phases.index(phase), loop, exchanged)
    return exchanged

  def _run(self, phase, h, states, keys, turn) -> _Exchanged:
    """The rounds of one phase."""
    leaves = [group.leaf for group in self._groups]
    kinds = [_policy.kind(self._schedule, phase, leaf) for leaf in leaves]
    dtypes = list(map(self._policy.wire_dtype, kinds, leaves))
    rounds = lambda kind, leaf: self._policy.rounds(kind, leaf, self._workers)
    with jax.named_scope(f'greedylore.{phase}'):
      own = [group.join(states) for group in self._groups]
      generators = [
        rounds(kind, group.leaf)(x, state, group.key(keys))
        for kind, group, x, state in zip(
          kinds, self._groups, h, own, strict=True
        )
      ]
      members = self._schedule.members(phase)
      if members:
        one = self._leaves[members[0]]
        refresh = rounds(_schedule.REFRESH, one)
        picked = self._pick(members, turn, h, own)
        generators.append(refresh(*picked, keys[turn]))
        dtypes.append(self._policy.wire_dtype(_schedule.REFRESH, one))
      transport = _transport.Transport(self._axis_name, self._shares)
      new = _rounds.run(generators, dtypes, transport)
      if members:
        self._replace(members, turn, new, new.pop())
      outputs, sents, joined = unzip(new, 3)
      # A decomposition can fail, too; states are equal on all, so all agree.
      finite = transport.finite & _transport.all_finite(_changed(joined, own))
      outputs = [x.astype(y.dtype) for x, y in zip(outputs, h, strict=True)]
      return _Exchanged(
        outputs, sents, self._keep(finite, joined, own, states), finite
      )

  def _unstack(self, stacks: list[Any]) -> list[Any]:
    """An entry per leaf of arrays per group, which may be None."""
    of_leaves: list[Any] = [None] * len(self._leaves)
    for group, x in zip(self._groups, stacks, strict=True):
      if x is not None:
        for i, part in zip(group.members, group.unstack(x), strict=True):
          of_leaves[i] = part
    return of_leaves

  def _pick(self, members, turn, h, own) -> Any:
    """(h, state) of the leaf whose turn it is, one of the members."""
    shape = self._leaves[members[0]].shape
    which = self._with(members)

    def pick(j):
      one = functools.partial(self._groups[j].pick, turn)
      return one(h[j]).reshape(shape), jax.tree.map(one, own[j])

    options = [functools.partial(pick, j) for j in which]
    turns = [self._groups[j].has(turn) for j in which]
    return jax.lax.switch(jnp.argmax(jnp.array(turns)), options)

  def _replace(self, members, turn, of_groups, new) -> None:
    """Puts `new` where the leaf is whose turn it is."""
    for j in self._with(members):
      put = functools.partial(self._groups[j].put, turn)
      of_groups[j] = jax.tree.map(put, of_groups[j], new)

  def _with(self, members) -> list[int]:
    """The groups that these leaves are in."""
    return [
      j
      for j, group in enumerate(self._groups)
      if not set(members).isdisjoint(group.members)
    ]

  def _keep(self, finite, new, old, states) -> list[Any]:
    """The compressor states per leaf; the old ones unless all is finite."""
    keep = lambda new, old: jnp.where(finite, new, old).astype(old.dtype)
    kept = list(states)
    for group, x, y in zip(self._groups, new, old, strict=True):
      before = [jax.tree.leaves(states[i]) for i in group.members]
      rows = [
        olds if a is b else list(map(keep, group.part(a), olds))
        for a, b, *olds in zip(
          jax.tree.leaves(x), jax.tree.leaves(y), *before, strict=True
        )
      ]
      treedef: Any = jax.tree.structure(x)
      columns = unzip(rows, len(group.members))
      for i, column in zip(group.members, columns, strict=True):
        kept[i] = treedef.unflatten(column)
    return kept


def _only_if(
  condition: jax.Array, function: Callable[[Any], Any], given: Any
) -> Any:
  """function(given) if the condition holds, else what was given."""
  once = lambda x: (jnp.array(False), function(x[1]))
  return jax.lax.while_loop(lambda x: x[0], once, (condition, given))[1]


def leaf_keys(key: jax.Array, count: int) -> jax.Array:
  """The PRNG keys of so many leaves in a step of this key, [count]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def unzip(rows: Any, width: int) -> tuple[list[Any], ...]:
  """Rows of `width` entries as `width` lists, also of no rows."""
  rows = list(rows)
  return tuple([row[i] for row in rows] for i in range(width))


def _changed(new: Any, old: Any) -> list[Any]:
  """The arrays that are not those of before."""
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
  return [x for x, y in pairs if x is not y]
