"""Is every leaf refreshed when its own interval says so?"""

import collections
import math

import jax
import jax.numpy as jnp
import optax
import pytest

import greedylore_jax as gl
from greedylore_jax._src.engine import schedule as schedule_lib


@pytest.mark.parametrize('start', [0, 3])
@pytest.mark.parametrize(
  ('intervals', 'phases'),
  [
    ([None], ['compress']),
    ([5], ['refresh', 'compress']),
    ([1], ['refresh']),
    ([2, None, 6], ['refresh', 'refresh_2', 'compress']),
    ([1, 4], ['refresh', 'refresh_1']),
    ([2, 4, 12], ['refresh', 'refresh_2_4', 'refresh_2', 'compress']),
  ],
)
def test_phases_are_those_that_occur_and_no_others(start, intervals, phases):
  schedule = schedule_lib.Schedule(start, intervals)
  assert schedule.phases == ['warmup'] * bool(start) + phases
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
      want = 'warmup' if since < 0 else 'refresh' if lands else 'compress'
      got = schedule.of_leaf(phase, interval)
      assert got == want, f'{interval}, step {step}'

  # Their shares in the long run, which are not counted.
  later = collections.Counter(map(schedule.at, range(steps, steps + period)))
  shares = {phase: n / period for phase, n in later.items()}
  assert schedule.lasting() == shares


def test_intervals_that_are_not_nested_are_refused_by_name():
  rules = [('a', gl.GreedyLore(2, 40)), ('', gl.GreedyLore(2, 100))]
  message = 'multiple of the next smaller one, got 40 and 100: use 80 instead'
  for use in (
    lambda: gl.compress_gradients(rules, None),
    lambda: gl.plan(rules, {'a': jnp.ones((8, 8))}),
  ):
    with pytest.raises(ValueError, match=message):
      use()
  with pytest.raises(ValueError, match='got 2 and 5'):
    gl.tsr_adam(0.1, 2, None, embedding_rank=2, update_interval=5)


def test_without_a_compressed_leaf_every_step_is_dense():
  schedule = schedule_lib.Schedule(3, [])
  assert schedule.phases == ['dense']
  assert schedule.at(0) == schedule.at(5) == 'dense'
  assert schedule.index(jnp.array(0)) == schedule.index(jnp.array(5)) == 0


@pytest.mark.parametrize('stagger', [False, True])
@pytest.mark.parametrize(
  'options',
  [
    {},  # Staggered, the first refresh is of all.
    {'average_moments': 10},  # Never with a refresh: 10 n and 10 n - 1.
    {'average_moments': 3},
    {'fragments': 4, 'total_steps': 66},
    {'fragments': 4, 'total_steps': 66, 'compressor': gl.PowerSGD(4)},
    {'fragments': 4, 'local_start_step': 10, 'average_moments': 5},
    {'start_step': 4, 'average_moments': 2},
  ],
  ids=str,
)
def test_peak_and_shares_of_rounds_are_those_of_the_steps(options, stagger):
  params = {str(i): jnp.ones((64, 64)) for i in range(4)}
  options = {'compressor': gl.GreedyLore(4, update_interval=10), **options}
  if 'average_moments' in options:
    options['inner'] = optax.adam(1e-3)
  plan = gl.plan(
    params=params, num_workers=4, every=5, stagger=stagger, **options
  )
  steps = options.get('total_steps', 700)
  phases = [plan.phase_at(step) for step in range(steps)]
  assert plan.peak_bytes == max(map(plan.bytes_in, phases))
  if 'total_steps' not in options:
    period = 5 * math.lcm(10, options.get('average_moments', 1))
    later = collections.Counter(phases[-period:])
    shares = {phase: n / period for phase, n in later.items()}
    assert plan.lasting_phases() == pytest.approx(shares)
