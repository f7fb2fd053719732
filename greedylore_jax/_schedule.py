"""Which kind of step comes when: warm-up, refreshes, compressed steps."""

from collections.abc import Iterable
import itertools
import math

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
    return REFRESH if interval in self._refreshed[phase] else COMPRESS

  def period(self) -> int:
    """Steps after which the phases repeat, warm-up left out."""
    return math.lcm(*self.intervals)

  def _name(self, refreshed: Iterable[int]) -> str:
    """The name of the phase in which just these intervals are refreshed."""
    refreshed = sorted(refreshed)
    if not refreshed:
      return COMPRESS
    some = '_'.join(['', *map(str, refreshed)])
    return REFRESH + (some if refreshed != self.intervals else '')


def _refreshed_together(intervals: list[int]) -> list[set[int]]:
  """The sets of intervals that divide some step number and no others do."""
  sets = itertools.chain.from_iterable(
      itertools.combinations(intervals, n)
      for n in range(len(intervals), -1, -1)
  )
  return [
      set(chosen) for chosen in sets
      if all(math.lcm(*chosen) % i for i in set(intervals) - set(chosen))
  ]  # fmt: skip
