"""Which phase comes when: warm-up, refreshes, compressed steps.

The phase of a step says what all leaves do in it. It has a name: 'warmup',
'refresh' (of all leaves that have an update interval), 'compress' (of none), or
for example 'refresh_2' (of those with the interval 2 only).
"""

from collections.abc import Iterable, Mapping, Sequence
import fractions
import itertools
import math

import jax.numpy as jnp

from greedylore_jax._src.engine.round_length import Rule
from greedylore_jax._src.types import Array, Phase

WARMUP: Phase = 'warmup'
REFRESH: Phase = 'refresh'
COMPRESS: Phase = 'compress'
DENSE = 'dense'
"""The only phase of a step where no leaf is compressed."""
LOCAL = 'local'
"""The phase of a step that does not end a round."""
MOMENTS = 'moments'
"""The mean of the inner optimizers' states, in addition to another phase."""


def check_nested(intervals: Iterable[int | None]) -> None:
  """Raises unless each update interval is a multiple of the next smaller one.

  Steps then refresh either none, or all up to some interval: n intervals have
  n + 1 phases.
  """
  sizes = sorted({i for i in intervals if i})
  for small, large in itertools.pairwise(sizes):
    if large % small:
      raise ValueError(
        'Each update_interval must be a multiple of the next smaller one, got'
        f' {small} and {large}: use {large - large % small} instead of {large}.'
      )


class Schedule:
  """The phases of a run.

  Attributes:
    start_step: dense steps before compression starts.
    intervals: the update intervals, ascending; each divides the next.
    phases: the names of the phases that occur, in the order of their indices.
    is_known: whether `at` is exact; else it may name more than is sent.
    varies: whether `lasting` is a bound, as phases may come less often.
  """

  is_known = True
  varies = False

  def __init__(self, start_step: int, intervals: Iterable[int | None]):
    """Takes the `intervals` of all compressed leaves, None without refresh."""
    intervals = list(intervals)
    self.start_step = start_step
    self.intervals = sorted({i for i in intervals if i})
    # In a step of level j, the j smallest intervals are refreshed.
    lowest = 1 if self.intervals and self.intervals[0] == 1 else 0
    self._levels = list(range(len(self.intervals), lowest - 1, -1))
    warmup = [WARMUP] if start_step else []
    self.phases: list[str] = [*warmup, *map(self._name, self._levels)]
    if not intervals:
      self.phases = [DENSE]

  def __repr__(self) -> str:
    return f'{type(self).__name__}({self.start_step}, {self.intervals})'

  def at(self, step: int) -> str:
    """The phase of a step, counted from 0."""
    since = step - self.start_step
    if self.phases == [DENSE]:
      return DENSE
    if since < 0:
      return WARMUP
    return self._name(sum(since % i == 0 for i in self.intervals))

  def of_round(self, number: int) -> str:
    """The phase of a step that is a round of its own."""
    return self.at(number)

  def names(self) -> set[str]:
    """The phases that occur."""
    return {*self.phases}

  def index(self, count: Array) -> Array:
    """The index into `phases` of step `count`: `at` for a traced number."""
    if self.phases == [DENSE]:
      return jnp.zeros_like(count)
    since = count - self.start_step
    due = [(since % i == 0).astype(count.dtype) for i in self.intervals]
    level = sum(due, jnp.zeros_like(count))
    first = self.phases.index(self._name(self._levels[0]))
    return jnp.where(since < 0, 0, first + self._levels[0] - level)

  def of_leaf(self, phase: str, interval: int | None) -> Phase:
    """What a compressed leaf of this update interval does in a phase."""
    if phase == WARMUP:
      return WARMUP
    due = [self.intervals[:j] for j in self._levels if self._name(j) == phase]
    return REFRESH if due and interval in due[0] else COMPRESS

  def members(self, phase: str) -> tuple[int, ...]:
    """The leaves of which one is refreshed in this phase, if staggered."""
    del phase
    return ()

  def turn(self, count: Array) -> Array:
    """Which of the members it is in step `count`."""
    return jnp.zeros_like(count)

  def lasting(self, every: int = 1) -> dict[str, float]:
    """The share of steps of each phase in the long run, without the warm-up.

    One step in i_j refreshes the interval i_j, and with it all smaller ones.

    Args:
      every: only the steps every - 1, 2 every - 1, .. count; the shares are of
        all steps.
    """
    if self.phases == [DENSE]:
      return {DENSE: 1 / every}
    rates = [_meeting(i, self.start_step, every) for i in [1, *self.intervals]]
    shares = {
      self._name(j): rates[j] - sum(rates[j + 1 : j + 2]) for j in self._levels
    }
    return {phase: float(x) for phase, x in shares.items() if x}

  def _name(self, level: int) -> str:
    """The name of the phase in which the smallest intervals are refreshed."""
    if level == 0:
      return COMPRESS
    if level == len(self.intervals):
      return REFRESH
    return '_'.join([REFRESH, *map(str, self.intervals[:level])])


class Staggered(Schedule):
  """Refreshes at most one leaf per step.

  The first compressed step refreshes all. After that every leaf has its turn
  once in its interval. Leaves of equal shape share a phase, for example
  'refresh_one_256x688', in which all leaves are compressed and the one whose
  turn it is is refreshed in addition.
  """

  def __init__(
    self,
    start_step: int,
    intervals: Mapping[int, int],
    shapes: Mapping[str, Sequence[int]],
  ):
    """Takes the interval of each leaf, and the leaves of each shape by name."""
    super().__init__(start_step, intervals.values())
    self._turns = [
      (leaf, intervals[leaf], offset)
      for leaf, offset in _offsets(intervals).items()
    ]
    self._members = {
      f'{REFRESH}_one_{name}': tuple(leaves) for name, leaves in shapes.items()
    }
    warmup = [WARMUP] if start_step else []
    self.phases = [*warmup, REFRESH, COMPRESS, *self._members]

  def at(self, step: int) -> str:
    """The phase of a step, counted from 0."""
    since = step - self.start_step
    if since <= 0:
      return REFRESH if since == 0 else WARMUP
    for leaf, interval, offset in self._turns:
      if since % interval == offset:
        return self._phase_of(leaf)
    return COMPRESS

  def index(self, count: Array) -> Array:
    """`at` for a traced number, as an index into `phases`."""
    since = count - self.start_step
    of_leaves = [self._phase_of(leaf) for leaf, *_ in self._turns]
    indices = jnp.array([self.phases.index(x) for x in of_leaves], jnp.int32)
    due = self._due(count)
    later = jnp.where(
      jnp.any(due), indices[jnp.argmax(due)], self.phases.index(COMPRESS)
    )
    first = self.phases.index(REFRESH)
    return jnp.where(since < 0, 0, jnp.where(since == 0, first, later))

  def of_leaf(self, phase: str, interval: int | None) -> Phase:
    """What the leaves do in a phase, except the one whose turn it is."""
    if phase == WARMUP:
      return WARMUP
    is_refresh = phase == REFRESH and interval is not None
    return REFRESH if is_refresh else COMPRESS

  def lasting(self, every: int = 1) -> dict[str, float]:
    """Every leaf has its turn once in its interval."""
    rate = {
      leaf: _meeting(n, self.start_step + offset, every)
      for leaf, n, offset in self._turns
    }
    shares = {
      phase: sum((rate[x] for x in leaves), fractions.Fraction())
      for phase, leaves in self._members.items()
    }
    shares[COMPRESS] = fractions.Fraction(1, every) - sum(rate.values())
    return {phase: float(x) for phase, x in shares.items() if x}

  def members(self, phase: str) -> tuple[int, ...]:
    """The leaves of which one is refreshed in this phase."""
    return self._members.get(phase, ())

  def turn(self, count: Array) -> Array:
    """The leaf whose turn it is in step `count`, if it is anyone's."""
    leaves = jnp.array([leaf for leaf, *_ in self._turns], jnp.int32)
    return leaves[jnp.argmax(self._due(count))]

  def _due(self, count: Array) -> Array:
    """For each leaf whether its turn is in step `count`."""
    _, intervals, offsets = jnp.array(self._turns, jnp.int32).T
    due: Array = (count - self.start_step) % intervals == offsets
    return due

  def _phase_of(self, leaf: int) -> str:
    (phase,) = (p for p, members in self._members.items() if leaf in members)
    return phase


class LocalSchedule:
  """The phases of a run with local updates, see `local_updates`.

  At the end of a round, a step is in a phase of the rounds' own schedule, which
  counts rounds. All others are 'local' and send nothing. What several things
  send in one step is joined by '+': 'compress_1of2+compress_2of2+moments'. If
  only the run can know when rounds end, every step is said to end one.
  """

  def __init__(
    self, rounds: Sequence[Schedule], rule: Rule, average_moments: int = 0
  ):
    """Takes the schedule of rounds of each fragment, and when rounds end."""
    self._rounds, self._rule = rounds, rule
    self._average_moments = average_moments
    self.is_known, self.varies = rule.is_known, rule.varies
    self._ends = [rule.ends(steps) for steps in rule.ahead(len(rounds))]
    self._names = list[str]()
    self._counts = [0] * len(rounds)

  def at(self, step: int) -> str:
    """The phase of a step, counted from 0."""
    while len(self._names) <= step:
      parts = [] if self.is_known else [LOCAL]
      for i, ends in enumerate(self._ends):
        if next(ends):
          parts.append(self.part(i, self._rounds[i].at(self._counts[i])))
          self._counts[i] += 1
          if i == 0 and self._averages(self._counts[0]):
            parts.append(MOMENTS)
      self._names.append('+'.join(parts) or LOCAL)
    return self._names[step]

  def of_round(self, number: int) -> str:
    """The phase of the step that ends a round, counted from 0."""
    always = [] if self.is_known else [LOCAL]
    moments = [MOMENTS] if self._averages(number + 1) else []
    return '+'.join([*always, self._rounds[0].at(number), *moments])

  def part(self, fragment: int, phase: str) -> str:
    """The name of what a fragment sends at the end of such a round."""
    count = len(self._rounds)
    return phase if count == 1 else f'{phase}_{fragment + 1}of{count}'

  def lasting(self) -> dict[str, float]:
    """The share of steps of each phase if all rounds are the shortest."""
    every = self._rule.shortest
    shares = dict[str, float]()
    for i, rounds in enumerate(self._rounds):
      averaged = {}
      if i == 0 and self._average_moments:
        averaged = rounds.lasting(self._average_moments)
      for phase, share in rounds.lasting().items():
        with_moments = averaged.get(phase, 0.0)
        for moments, x in ((False, share - with_moments), (True, with_moments)):
          if x > 1e-12:
            shares[self._name(i, phase, moments)] = x / every
    rest = 1 - sum(shares.values())
    return shares | ({LOCAL: rest} if rest > 1e-12 else {})

  def names(self) -> set[str]:
    """The phases that occur: in the long run, before it, and at the end."""
    found = {self.at(i) for i in range(self._rule.start_step)}
    for i, rounds in enumerate(self._rounds):
      # The warm-up, and the first step after it, which refreshes everything.
      number = rounds.start_step
      if number:
        found.add(self._name(i, WARMUP, False))
        if i == 0 and 0 < self._average_moments <= number:
          found.add(self._name(i, WARMUP, True))
      moments = i == 0 and self._averages(number + 1)
      found.add(self._name(i, rounds.at(number), moments))
    # The last step ends the rounds of all fragments.
    if self._rule.total_steps and self.is_known and len(self._rounds) > 1:
      found.add(self.at(self._rule.total_steps - 1))
    return found | self.lasting().keys()

  def _name(self, fragment: int, phase: str, moments: bool) -> str:
    """The name of a step that ends a round of one fragment."""
    always = [] if self.is_known else [LOCAL]
    averaged = [MOMENTS] if moments else []
    return '+'.join([*always, self.part(fragment, phase), *averaged])

  def _averages(self, count: int) -> bool:
    """Whether moments are averaged with round number `count`, from 1 on."""
    every = self._average_moments
    return bool(every) and count % every == 0


def _meeting(interval: int, offset: int, every: int) -> fractions.Fraction:
  """The share of steps s = offset (mod interval) that precede k * every."""
  if (offset + 1) % math.gcd(interval, every):
    return fractions.Fraction(0)
  return fractions.Fraction(1, math.lcm(interval, every))


def _offsets(intervals: Mapping[int, int]) -> dict[int, int]:
  """Assigns each leaf the remainder of the steps at its turn in its interval.

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
