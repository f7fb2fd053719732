"""Steps that compute while the message of the last round travels."""

from collections.abc import Iterator
import concurrent.futures
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import round_end
from greedylore_jax._src.engine import fragments as fragments_lib
from greedylore_jax._src.local_updates import (
  LocalUpdates,
  LocalUpdatesState,
  Rounds,
)
from greedylore_jax._src.state import per_worker, placement
from greedylore_jax._src.state.per_worker import PerWorker
from greedylore_jax._src.types import (
  Array,
  AxisName,
  Function,
  OptState,
  Params,
  PyTree,
)


class Still(NamedTuple):
  """The part of the state that local steps leave alone.

  The exchange reads it while they run, so they must not reuse its memory.
  """

  outer: tuple[OptState, ...]
  sent: PerWorker


def part(state: LocalUpdatesState) -> tuple[Still, LocalUpdatesState]:
  """A state as what local steps leave alone and what they change."""
  in_flight: Any = state.in_flight
  moving = state._replace(outer=(), in_flight=in_flight._replace(sent=()))
  return Still(state.outer, in_flight.sent), moving


def join(still: Still, moving: LocalUpdatesState) -> LocalUpdatesState:
  """Inverts `part`."""
  in_flight: Any = moving.in_flight
  in_flight = in_flight._replace(sent=still.sent)
  return moving._replace(outer=still.outer, in_flight=in_flight)


def check(tx: Any, axis_name: AxisName) -> Rounds:
  """The rounds of a transformation whose messages can travel meanwhile.

  Raises:
    ValueError: if there is nothing to overlap, or something that must not.
  """
  wanted = (
    'overlap=True needs tx=gl.local_updates(..., delay=d) with d >= 1 and'
    ' average_moments=0'
  )
  if not isinstance(tx, LocalUpdates):
    raise ValueError(
      f'{wanted}, got another transformation: pass what gl.local_updates'
      ' returned, not a chain that contains it, or leave overlap=False.'
    )
  rounds = tx.rounds
  if not rounds.delay or rounds.averages_moments or axis_name is None:
    raise ValueError(
      f'{wanted}, and several workers, got delay={rounds.delay},'
      f' average_moments {"above 0" if rounds.averages_moments else "0"},'
      f' axis_name={axis_name!r}.'
    )
  return rounds


class Timetable:
  """What happens to each fragment in each step, known to the host.

  Attributes:
    fragments: their indices.
  """

  def __init__(self, rounds: Rounds):
    self._rounds = rounds
    aheads = rounds.rule.ahead(rounds.fragments)
    self._coming: list[Iterator[bool]] = [*map(rounds.rule.ends, aheads)]
    self._ends: list[list[bool]] = [[] for _ in aheads]
    self.fragments = range(len(aheads))

  def departs(self, fragment: int, step: int) -> bool:
    """Whether a round ends with this step whose outcome comes later."""
    return self._is_end(fragment, step) and self._waits(step)

  def arrives(self, fragment: int, step: int) -> bool:
    """Whether x receives the outcome of an earlier round in this step."""
    sent = step - self._rounds.delay
    return sent >= 0 and self.departs(fragment, sent)

  def is_now(self, step: int) -> bool:
    """Whether x receives in this step what departs in it."""
    ends = any(self._is_end(i, step) for i in self.fragments)
    return ends and not self._waits(step)

  def _waits(self, step: int) -> bool:
    return bool(self._rounds.rule.waits(step, self._rounds.delay))

  def _is_end(self, fragment: int, step: int) -> bool:
    known = self._ends[fragment]
    while len(known) <= step:
      known.append(next(self._coming[fragment]))
    return known[step]


class Exchange:
  """The exchanges of all fragments, one after the other, in a thread.

  All processes start them in the same order, so their collectives match.

  Args:
    rounds: of the transformation.
    shard_map: `jax.shard_map` on the mesh, over the axes of the workers.
    axis_name: mesh axis (or tuple of axes) of the workers.
  """

  def __init__(self, rounds: Rounds, shard_map: Function, axis_name: AxisName):
    self._rounds = rounds
    self._thread = concurrent.futures.ThreadPoolExecutor(
      1, thread_name_prefix='greedylore-exchange'
    )
    self._pending: dict[int, concurrent.futures.Future[Any]] = {}
    own = jax.sharding.PartitionSpec(axis_name)
    equal = jax.sharding.PartitionSpec()

    def depart(delta: PerWorker, sent: PerWorker) -> Any:
      parted = round_end.departed(jnp.array(True), delta.own, sent.own)
      return tuple(map(per_worker.of, parted))

    def exchange(params: Params, outer: OptState, sent: PerWorker) -> Any:
      moved, state = round_end.exchange(rounds.outer, sent.own, outer, params)
      nothing = jax.tree.map(jnp.zeros_like, sent)
      return optax.apply_updates(params, moved), state, nothing

    def exchange_on_mesh(
      params: Params, outer: OptState, sent: PerWorker
    ) -> Any:
      specs = placement.state_partition_specs(outer, axis_name)
      run: Function = shard_map(
        exchange, in_specs=(equal, specs, own), out_specs=(equal, specs, own)
      )
      return run(params, outer, sent)

    self._depart = jax.jit(
      shard_map(depart, in_specs=own, out_specs=own), donate_argnums=0
    )
    # Local steps read the parameters meanwhile, so nothing is donated.
    self._exchange = jax.jit(exchange_on_mesh)

  @property
  def is_pending(self) -> bool:
    """Whether a message may be under way."""
    return not all(x.done() for x in self._pending.values())

  def wait(self) -> None:
    """Returns when no message is under way."""
    concurrent.futures.wait(self._pending.values())

  def forget(self) -> None:
    """Drops the outcomes that have not arrived, once no message is left."""
    self.wait()
    self._pending.clear()

  def depart(
    self, fragment: int, params: Params, state: LocalUpdatesState
  ) -> LocalUpdatesState:
    """The state after the end of a round, whose exchange begins."""
    in_flight: Any = state.in_flight
    take = self._taker(fragment, params)
    delta, sent = self._depart(
      PerWorker(take(state.delta.tree)), PerWorker(take(in_flight.sent.tree))
    )
    state = state._replace(
      delta=PerWorker(_replaced(state.delta.tree, delta.tree)),
      in_flight=in_flight._replace(
        sent=PerWorker(_replaced(in_flight.sent.tree, sent.tree))
      ),
    )
    self.start(fragment, params, state)
    return state

  def start(
    self, fragment: int, params: Params, state: LocalUpdatesState
  ) -> None:
    """Begins the exchange of what is in flight."""
    in_flight: Any = state.in_flight
    take = self._taker(fragment, params)
    given = (
      take(params),
      state.outer[fragment],
      PerWorker(take(in_flight.sent.tree)),
    )
    self._pending[fragment] = self._thread.submit(
      lambda: jax.block_until_ready(self._exchange(*given))
    )

  def arrive(
    self, fragment: int, params: Params, state: LocalUpdatesState
  ) -> tuple[Params, LocalUpdatesState]:
    """The parameters and the state with the outcome, once it has come."""
    x, outer, sent = self._pending.pop(fragment).result()
    in_flight: Any = state.in_flight
    outers = list(state.outer)
    outers[fragment] = jax.tree.map(_placed_like, outer, outers[fragment])
    state = state._replace(
      outer=tuple(outers),
      in_flight=in_flight._replace(
        sent=PerWorker(_replaced(in_flight.sent.tree, sent.tree))
      ),
    )
    return _replaced(params, x), state

  def _taker(self, fragment: int, params: Params) -> Function:
    """Takes the leaves of a fragment from trees like the parameters."""
    groups = fragments_lib.assign(params, self._rounds.fragments)
    return functools.partial(fragments_lib.take, members=groups[fragment])


def _replaced(tree: PyTree, new: PyTree) -> PyTree:
  """The tree with the leaves that are not masked in another one."""
  is_masked: Function = lambda x: isinstance(x, optax.MaskedNode)
  return jax.tree.map(
    lambda x, old: old if is_masked(x) else _placed_like(x, old),
    new,
    tree,
    is_leaf=is_masked,
  )


def _placed_like(new: Array, old: Array) -> Array:
  """An array with the sharding of the one whose place it takes."""
  placed: Array = jax.device_put(new, old.sharding)
  return placed
