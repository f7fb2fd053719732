"""Seconds of steps, predicted: against a ring written out hop by hop."""

import re

import jax.numpy as jnp
import pytest

import greedylore_jax as gl

PARAMS = {'w': jnp.zeros((64, 256)), 'bias': jnp.zeros(256)}
LINK = {'bandwidth': 1e6, 'latency': 1e-3}


def planned(compressor, num_workers=4, **options):
  return gl.plan(compressor, PARAMS, num_workers=num_workers, **options)


def around_the_ring(payload, num_workers, bandwidth, latency):
  """Reduce-scatter, then all-gather, a hop at a time."""
  hops = 2 * (num_workers - 1)
  return sum(latency + payload / num_workers / bandwidth for _ in range(hops))


def test_a_dense_step_computes_and_sends_around_the_ring():
  plan = planned(gl.PowerSGD(4))
  found = gl.predict(plan, **LINK, compute_seconds=0.2)
  expected = 0.2 + around_the_ring(plan.dense_bytes, 4, **LINK)
  assert found.dense == pytest.approx(expected)


def test_every_round_of_a_compressed_step_waits_anew():
  plan = planned(gl.PowerSGD(4))
  found = gl.predict(plan, **LINK, overhead_seconds=0.3)
  expected = 0.3 + sum(
    around_the_ring(4 * sent.size, 4, **LINK)
    for sent in plan.rounds['compress']
  )
  assert found.average == pytest.approx(expected)
  assert found.worst == found.average


def test_refreshes_count_at_their_share():
  plan = planned(gl.GreedyLore(4, update_interval=10))
  overheads = {'compress': 0.1, 'refresh': 2.0}
  found = gl.predict(plan, **LINK, overhead_seconds=overheads)
  seconds = {
    phase: overheads[phase]
    + sum(around_the_ring(4 * sent.size, 4, **LINK) for sent in rounds)
    for phase, rounds in plan.rounds.items()
  }
  assert found.worst == pytest.approx(seconds['refresh'])
  mean = 0.9 * seconds['compress'] + 0.1 * seconds['refresh']
  assert found.average == pytest.approx(mean)


def test_warmup_does_not_count():
  at_once, later = (
    gl.predict(planned(gl.PowerSGD(4), start_step=x), **LINK) for x in (0, 100)
  )
  assert at_once == later


def test_what_is_gathered_goes_around_once():
  plan = planned(gl.Sign())
  gathers = [x for x in plan.rounds['compress'] if 'gather' in x.kind]
  assert gathers
  slow, quick = (
    gl.predict(plan, bandwidth=1e6, latency=x).average for x in (1.0, 0.0)
  )
  reduces = len(plan.rounds['compress']) - len(gathers)
  hops = (4 - 1) * (len(gathers) + 2 * reduces)
  assert slow - quick == pytest.approx(hops)


def test_at_break_even_both_take_the_same_time():
  plan = planned(gl.GreedyLore(4))
  given = {'latency': 1e-4, 'compute_seconds': 0.3, 'overhead_seconds': 0.05}
  bandwidth = gl.predict(plan, bandwidth=1, **given).break_even
  found = gl.predict(plan, bandwidth=bandwidth, **given)
  assert found.dense == pytest.approx(found.average)
  slower = gl.predict(plan, bandwidth=bandwidth / 2, **given)
  assert slower.average < slower.dense


def test_what_costs_nothing_pays_on_any_link():
  plan = planned(gl.RangeFinder(4))
  assert gl.predict(plan, bandwidth=1).break_even == float('inf')


def test_what_saves_nothing_never_pays():
  assert gl.predict(planned(gl.Dense()), bandwidth=1).break_even == 0


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'bandwidth': 0}, 'bandwidth must be above 0 and finite'),
    ({'bandwidth': float('nan')}, 'bandwidth must be a number'),
    ({'bandwidth': 1, 'latency': -1}, 'latency must be at least 0 and finite'),
    ({'bandwidth': 1, 'compute_seconds': float('inf')}, 'compute_seconds must'),
    (
      {'bandwidth': 1, 'overhead_seconds': {'compress': -1, 'refresh': 1}},
      'overhead_seconds must be at least 0',
    ),
    (
      {'bandwidth': 1, 'overhead_seconds': {'compress': 0.1}},
      "every phase that lasts, ['compress', 'refresh'], got ['compress']",
    ),
  ],
)
def test_wrong_arguments(given, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    gl.predict(planned(gl.GreedyLore(4)), **given)
