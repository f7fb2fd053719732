"""Is every leaf refreshed when its own interval says so?"""

import collections
import math

import jax
import jax.numpy as jnp
import pytest

from greedylore_jax._src.engine import schedule as _schedule


@pytest.mark.parametrize('start', [0, 3])
@pytest.mark.parametrize(
  ('intervals', 'phases'),
  [
    ([None], ['compress']),
    ([5], ['refresh', 'compress']),
    ([1], ['refresh']),
    ([2, None, 6], ['refresh', 'refresh_2', 'compress']),
    ([4, 6], ['refresh', 'refresh_4', 'refresh_6', 'compress']),
    (
      [2, 3, 4],
      [
        'refresh',
        'refresh_2_3',
        'refresh_2_4',
        'refresh_2',
        'refresh_3',
        'compress',
      ],
    ),
  ],
)
def test_phases_are_those_that_occur_and_no_others(start, intervals, phases):
  schedule = _schedule.Schedule(start, intervals)
  assert schedule.phases == ['warm_up'] * bool(start) + phases
  period = math.lcm(*filter(None, intervals))
  steps = start + period
  assert {schedule.at(step) for step in range(steps)} == {*schedule.phases}
  indices = jax.vmap(schedule.index)(jnp.arange(steps))
  for step in range(steps):
    phase = schedule.at(step)
    assert schedule.phases[indices[step]] == phase, f'step {step}'
    for interval in intervals:
      since = step - start
      lands = interval is not None and since % interval == 0
      kind = 'warm_up' if since < 0 else 'refresh' if lands else 'compress'
      assert schedule.kind(phase, interval) == kind, f'{interval}, step {step}'

  # Their shares in the long run, which are not counted.
  later = collections.Counter(map(schedule.at, range(steps, steps + period)))
  shares = {phase: n / period for phase, n in later.items()}
  assert schedule.lasting() == shares


def test_shares_of_intervals_that_hardly_ever_meet():
  """Their common multiple is 1.7e9 steps; nobody goes through these."""
  shares = _schedule.Schedule(0, [197, 199, 200, 211]).lasting()
  assert sum(shares.values()) == pytest.approx(1)
  alone = 1 / 197 * (1 - 1 / 199) * (1 - 1 / 200) * (1 - 1 / 211)
  assert shares['refresh_197'] == pytest.approx(alone)


def test_without_a_compressed_leaf_every_step_is_dense():
  schedule = _schedule.Schedule(3, [])
  assert schedule.phases == ['dense']
  assert schedule.at(0) == schedule.at(5) == 'dense'
  assert schedule.index(jnp.array(0)) == schedule.index(jnp.array(5)) == 0
