"""What the workers exchange in a step, by the step's phase."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax import _axes
from greedylore_jax import _feedback
from greedylore_jax import _leaves
from greedylore_jax import _policy
from greedylore_jax import _rounds
from greedylore_jax import _schedule
from greedylore_jax import _spread
from greedylore_jax import _transport


class Stepped(NamedTuple):
  """What a step makes of the state: an entry per leaf, and if all is finite."""

  updates: list[Any]
  errors: list[Any]
  memories: list[Any]
  finite: jax.Array


class Exchange:
  """The rounds of all leaves, in whichever phase the step is.

  A refresh is a loop of one turn or none, not a branch: a loop works on what it
  is given where it lies, while XLA copies what comes out of a branch, and most
  steps would copy every basis only to leave it as it was. (Loops for all phases
  would hold updates of zeros through the backward pass.)
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
    self._shares = policy.shares(_spread.devices_per_worker())

  def __call__(
      self, grads: list[Any], errors: list[Any], memories: list[Any],
      count: jax.Array, key: jax.Array,
  ) -> Stepped:  # fmt: skip
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
    index, turn = self._schedule.index(count), self._schedule.turn(count)
    phases = self._schedule.phases
    loops = [x for x in phases if x.startswith(_schedule.REFRESH)]
    if loops == phases:
      loops = []
    step = lambda phase, errors, memories: self._run(
        phase, grads, errors, memories, key, turn
    )

    def branch(phase):
      if phase not in loops:
        return functools.partial(step, phase)
      nothing = [jnp.zeros(x.shape, x.dtype) for x in grads]
      return lambda errors, memories: Stepped(
          nothing, errors, memories, jnp.array(True)
      )

    stepped = jax.lax.switch(index, list(map(branch, phases)), errors, memories)
    for phase in loops:
      loop: Any = lambda x, phase=phase: step(phase, x.errors, x.memories)
      stepped = _only_if(index == phases.index(phase), loop, stepped)
    return stepped

  def _run(self, phase, grads, errors, memories, key, turn) -> Stepped:
    """The step in one phase."""
    kinds = [_policy.kind(self._schedule, phase, leaf) for leaf in self._leaves]
    dtypes = list(map(self._policy.wire_dtype, kinds, self._leaves))
    rounds = lambda kind, leaf: self._policy.rounds(kind, leaf, self._workers)
    keys = leaf_keys(key, len(self._leaves))
    feedback = self._policy.feedback
    with jax.named_scope(f'greedylore.{phase}'):
      h = list(map(feedback.fed, self._leaves, grads, errors))
      own = list(map(_feedback.remembered, memories))
      generators = [
          rounds(kind, leaf)(h[i], own[i], keys[i])
          for i, (kind, leaf) in enumerate(
              zip(kinds, self._leaves, strict=True)
          )
      ]
      members = self._schedule.members(phase)
      if members:
        one = self._leaves[members[0]]
        refresh = rounds(_schedule.REFRESH, one)
        its = _pick(h, members, turn), _pick(own, members, turn)
        generators.append(refresh(*its, keys[turn]))
        dtypes.append(self._policy.wire_dtype(_schedule.REFRESH, one))
      transport = _transport.Transport(self._axis_name, self._shares)
      new = _rounds.run(generators, dtypes, transport)
      if members:
        _replace(new, members, turn, new.pop())
      outputs, sents, remembered = unzip(new, 3)
      # A decomposition can fail, too; memory is equal on all, so all agree.
      new_memory = _transport.all_finite(_changed(remembered, own))
      finite = transport.finite & new_memory
      fed_back = functools.partial(feedback.fed_back, finite=finite)
      updates, errors, memories = unzip(
          map(fed_back, grads, h, errors, memories, outputs, sents, remembered),
          3,
      )
      return Stepped(updates, errors, memories, finite)


def _only_if(
    condition: jax.Array, function: Callable[[Any], Any], given: Any
) -> Any:
  """function(given) if the condition holds, else what was given."""
  once = lambda x: (jnp.array(False), function(x[1]))
  return jax.lax.while_loop(lambda x: x[0], once, (condition, given))[1]


def leaf_keys(key: jax.Array, count: int) -> jax.Array:
  """The PRNG keys of so many leaves in a step of this key, [count]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def _pick(of_leaves: Any, members: Sequence[int], turn: jax.Array) -> Any:
  """What the leaf whose turn it is has among those of all leaves."""
  options = [lambda x=of_leaves[i]: x for i in members]
  return jax.lax.switch(jnp.argmax(jnp.array(members) == turn), options)


def _replace(
    of_leaves: Any, members: Sequence[int], turn: jax.Array, new: Any
) -> None:
  """Puts `new` where the leaf is whose turn it is."""
  for i in members:
    choose = lambda x, old, i=i: jnp.where(turn == i, x, old)
    of_leaves[i] = jax.tree.map(choose, new, of_leaves[i])


def unzip(rows: Any, width: int) -> tuple[list[Any], ...]:
  """Rows of `width` entries as `width` lists, also of no rows."""
  rows = list(rows)
  return tuple([row[i] for row in rows] for i in range(width))


def _changed(new: Any, old: Any) -> list[Any]:
  """The arrays that are not those of before."""
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
  return [x for x, y in pairs if x is not y]
