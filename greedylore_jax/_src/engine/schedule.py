"""Which kind of step comes when: warm-up, refreshes, compressed steps."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import fractions
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

WARM_UP, REFRESH, COMPRESS = 'warm_up', 'refresh', 'compress'
DENSE = 'dense'  # The only phase where no leaf is compressed.


class Schedule:
  """The phases of a run, a phase being what all of its leaves do in a step.

  Leaves may have different update intervals. A step in which all that have one
  are refreshed is a 'refresh', one in which none is is a 'compress', and one in
  which only those with the intervals 2 and 4 are is a 'refresh_2_4'.

  Attributes:
    phases: the names of those that occur, in the order of their indices.
  """

  def __init__(self, start_step: int, intervals: Iterable[int | None]):
    """Args: `intervals` of the compressed leaves, None without refresh."""
    intervals = list(intervals)
    self.start_step = start_step
    self.intervals = sorted({i for i in intervals if i})
    refreshed = _refreshed_together(self.intervals) if intervals else []
    self._refreshed = {self._name(r): r for r in refreshed}
    warm_up = [WARM_UP] if start_step and intervals else []
    self.phases = [*warm_up, *self._refreshed] if intervals else [DENSE]

  def __repr__(self) -> str:
    return f'Schedule({self.start_step}, {self.intervals})'

  def at(self, step: int) -> str:
    """The phase of a step, counted from 0."""
    since = step - self.start_step
    if self.phases == [DENSE]:
      return DENSE
    if since < 0:
      return WARM_UP
    return self._name({i for i in self.intervals if since % i == 0})

  def index(self, count: jax.Array) -> jax.Array:
    """The index into `phases` of step `count`: `at` for a traced number."""
    since = count - self.start_step
    lands = [(since % i == 0).astype(jnp.int32) for i in self.intervals]
    code = sum((x << j for j, x in enumerate(lands)), jnp.zeros_like(count))
    table = [0] * 2 ** len(self.intervals)
    for phase, refreshed in self._refreshed.items():
      bits = sum(1 << self.intervals.index(i) for i in refreshed)
      table[bits] = self.phases.index(phase)
    return jnp.where(since < 0, 0, jnp.array(table, jnp.int32)[code])

  def kind(self, phase: str, interval: int | None) -> str:
    """What a leaf of this update interval does in a phase."""
    if phase in (WARM_UP, DENSE):
      return phase
    return REFRESH if interval in self._refreshed.get(phase, ()) else COMPRESS

  def members(self, phase: str) -> tuple[int, ...]:
    """The leaves of which one is refreshed in this phase, by turns."""
    del phase
    return ()

  def turn(self, count: jax.Array) -> jax.Array:
    """Which of the members it is in step `count`."""
    return jnp.zeros_like(count)

  def lasting(self) -> dict[str, float]:
    """The share of steps of each phase in the long run, the beginning left out.

    Just R is refreshed where all of R are but no more: by inclusion and
    exclusion, the sum of (-1)^|X - R| / lcm(X) over all sets X that contain R.
    """
    if self.phases == [DENSE]:
      return {DENSE: 1.0}
    signed = lambda x, r: fractions.Fraction(
      (-1) ** (len(x) - len(r)), math.lcm(*x)
    )
    return {
      phase: float(
        sum(signed(x, r) for x in _subsets(self.intervals) if r <= x)
      )
      for phase, r in self._refreshed.items()
    }

  def _name(self, refreshed: Iterable[int]) -> str:
    """The name of the phase in which just these intervals are refreshed."""
    refreshed = sorted(refreshed)
    if not refreshed:
      return COMPRESS
    some = '_'.join(['', *map(str, refreshed)])
    return REFRESH + (some if refreshed != self.intervals else '')


def _refreshed_together(intervals: list[int]) -> list[set[int]]:
  """The sets of intervals that divide some step number and no others do."""
  return [
    chosen
    for chosen in _subsets(intervals)
    if all(math.lcm(*chosen) % i for i in set(intervals) - chosen)
  ]


def _subsets(numbers: Sequence[int]) -> list[set[int]]:
  """All sets of these numbers, the largest first."""
  sizes = range(len(numbers), -1, -1)
  return [
    set(chosen)
    for size in sizes
    for chosen in itertools.combinations(numbers, size)
  ]


class Staggered(Schedule):
  """Leaves that are refreshed by turns, at most one in a step.

  The first compressed step refreshes all; after that every leaf has its turn
  once in its interval. Leaves that are alike share a phase, such as
  'refresh_one_256x688', in which all leaves are compressed and the one whose
  turn it is is refreshed besides.
  """

  def __init__(
    self,
    start_step: int,
    intervals: Mapping[int, int],
    alike: Mapping[str, Sequence[int]],
  ):
    """Args: index of a leaf -> interval; name of a kind -> its leaves."""
    super().__init__(start_step, intervals.values())
    self._turns = [
      (leaf, intervals[leaf], offset)
      for leaf, offset in _offsets(intervals).items()
    ]
    self._members = {
      f'{REFRESH}_one_{name}': tuple(leaves) for name, leaves in alike.items()
    }
    first = [WARM_UP] if start_step else []
    self.phases = [*first, REFRESH, COMPRESS, *self._members]

  def at(self, step: int) -> str:
    """The phase of a step, counted from 0."""
    since = step - self.start_step
    if since <= 0:
      return REFRESH if since == 0 else WARM_UP
    for leaf, interval, offset in self._turns:
      if since % interval == offset:
        return self._phase_of(leaf)
    return COMPRESS

  def index(self, count: jax.Array) -> jax.Array:
    """`at` for a traced number, as an index into `phases`."""
    since = count - self.start_step
    of_leaves = [self._phase_of(leaf) for leaf, *_ in self._turns]
    indices = jnp.array([self.phases.index(x) for x in of_leaves], jnp.int32)
    lands = self._lands(count)
    later = jnp.where(
      jnp.any(lands), indices[jnp.argmax(lands)], self.phases.index(COMPRESS)
    )
    first = self.phases.index(REFRESH)
    return jnp.where(since < 0, 0, jnp.where(since == 0, first, later))

  def kind(self, phase: str, interval: int | None) -> str:
    """What the leaves do in a phase, besides the one whose turn it is."""
    return COMPRESS if phase in self._members else super().kind(phase, interval)

  def lasting(self) -> dict[str, float]:
    """Every leaf has its turn once in its interval."""
    rate = {leaf: fractions.Fraction(1, n) for leaf, n, _ in self._turns}
    shares: dict[str, Any] = {
      phase: sum(rate[leaf] for leaf in leaves)
      for phase, leaves in self._members.items()
    }
    shares[COMPRESS] = 1 - sum(rate.values())
    return {phase: float(x) for phase, x in shares.items() if x}

  def members(self, phase: str) -> tuple[int, ...]:
    """The leaves of which one is refreshed in this phase."""
    return self._members.get(phase, ())

  def turn(self, count: jax.Array) -> jax.Array:
    """The leaf whose turn it is in step `count`, if it is anyone's."""
    leaves = jnp.array([leaf for leaf, *_ in self._turns], jnp.int32)
    return leaves[jnp.argmax(self._lands(count))]

  def _lands(self, count: jax.Array) -> jax.Array:
    """For each leaf whether its turn is in step `count`."""
    _, intervals, offsets = jnp.array(self._turns, jnp.int32).T
    return (count - self.start_step) % intervals == offsets

  def _phase_of(self, leaf: int) -> str:
    (phase,) = (p for p, members in self._members.items() if leaf in members)
    return phase


def _offsets(intervals: Mapping[int, int]) -> dict[int, int]:
  """Leaf -> the remainder of the steps at its turn, spread over its interval.

  Two leaves meet in some step if their remainders are equal modulo the greatest
  common divisor of their intervals.
  """
  offsets: dict[int, int] = {}
  for leaf in sorted(intervals, key=lambda i: (intervals[i], i)):
    interval = intervals[leaf]
    wanted = len(offsets) * interval // len(intervals)
    for candidate in range(wanted, wanted + interval):
      if all(
        (candidate - taken) % math.gcd(interval, intervals[other])
        for other, taken in offsets.items()
      ):
        offsets[leaf] = candidate % interval
        break
    else:
      raise ValueError(
        'stagger=True refreshes at most one leaf in a step, and'
        f' {len(intervals)} leaves with update intervals of'
        f' {_words(intervals.values())} steps need more: raise'
        ' update_interval, stack layers into one leaf (as for jax.lax.scan),'
        ' or leave stagger at False.'
      )
  return offsets


def _words(numbers: Iterable[int]) -> str:
  """'2 and 100'."""
  return ' and '.join(map(str, sorted(set(numbers))))
