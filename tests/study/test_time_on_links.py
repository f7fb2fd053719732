"""When does a run have the loss of another one, and how long does that take?"""

import pytest

from experiments.time_on_links import __main__ as time_on_links
from experiments.time_on_links import cells

LINE = {'hosts': 2, 'milliseconds': 0.0, 'rate': '10mbit', 'turn': 0}


def run(method, curve, rate=1e-3):
  return {
    'overrides': cells.words(method),
    'rate': rate,
    'times_fewer': 1000.0,
    'curve': curve,
  }


def line(method, seconds, median, steps):
  own = {'seconds': seconds, 'median': median, 'steps': steps, 'sent': 10**6}
  return LINE | own | {'method': method}


def test_steps_lie_between_two_evaluations():
  curve = [(30, 4.0), (60, 3.0), (90, 2.0)]
  assert time_on_links.reached(curve, 2.5) == 75
  assert time_on_links.reached(curve, 3.0) == 60
  assert time_on_links.reached(curve, 1.9) is None


def test_seconds_are_those_of_a_step_alone_and_what_it_waits_for():
  """The local steps of the rounds were measured on a machine half as fast."""
  runs = [
    run('dense', [(30, 3.0), (420, 2.0)]),
    run('dense', [(30, 3.0), (420, 2.5)], 2e-3),  # Not the loss to reach.
    run('powersgd_int4-30', [(30, 3.0), (420, 2.05), (840, 2.01)], 5e-4),
    run('powersgd_int4-30', [(30, 3.0), (420, 2.1), (620, 1.9)]),
  ]
  lines = [
    line('alone', 0.2, 0.2, 10),
    line('dense', 10.2, 10.2, 1),
    line('ddp', 10.2, 10.2, 1),
    line('powersgd_int4-30', 0.5, 0.4, 30),
    line('torch_alone', 0.2, 0.2, 10),
  ]
  found = {x.method: x for x in time_on_links.rows(runs, lines, 2)}
  assert found.keys() == {'dense', 'ddp', 'powersgd_int4-30'}
  assert found['powersgd_int4-30'].steps == pytest.approx(520)
  assert found['powersgd_int4-30'].over_dense == pytest.approx(0.05)
  (seconds,) = found['powersgd_int4-30'].seconds.values()
  assert seconds == pytest.approx(0.3)
  lines = time_on_links.table([*found.values()]).splitlines()
  (row,) = (x for x in lines if x.startswith('| PowerSGD int4'))
  sooner = 420 * 10.2 / (520 * 0.3)
  assert (
    f'| 1,000 | 0.001 | +5.0 % | 520 | {520 * 0.3:.0f} ({sooner:.3g}) |' in row
  )
