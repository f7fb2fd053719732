"""Do benchmarks report what they measured?"""

import json

import jax
import pytest

from benchmarks.averaging import expected, ours, report, shapes
from benchmarks.network import links_report, outlook


def line(side, method, kind, seconds, sent, *, hosts=2, rate='1gbit'):
  return {
    'model': '60m',
    'hosts': hosts,
    'rate': rate,
    'number': 0,
    'side': side,
    'method': method,
    'kind': kind,
    'seconds': seconds,
    'sent': sent,
    'commit': 'abc',
  }


@pytest.fixture
def text(tmp_path):
  lines = [
    line('theirs', 'dense', 'compress', [0.9, 1.0, 1.1], 1e8),
    line('theirs', 'powersgd_hook', 'compress', [0.4, 0.4, 0.5], 1e7),
    line('ours', 'greedylore', 'compress', [0.2, 0.25, 0.3], 6.8e6),
    line('ours', 'greedylore', 'refresh', [2.25], 1e8),
    line('ours', 'powersgd', 'compress', [0.2], 6.25e6),
    line('ours', 'dense', 'compress', [1.0], 1e8),
    line('ours', 'dense', 'compress', [0.1], 0, hosts=1, rate='none'),
    line('ours', 'powersgd', 'compress', [0.15], 6.25e6, rate='none'),
  ]
  results = tmp_path / 'results.jsonl'
  results.write_text(
    ''.join(json.dumps(x) + '\n' for x in lines), encoding='utf-8'
  )
  report.write(results, tmp_path)
  assert (tmp_path / 'RESULTS.png').stat().st_size > 10_000
  return (tmp_path / 'RESULTS.md').read_text(encoding='utf-8')


def test_averages_include_refreshes_at_their_share(text):
  # 199 steps of 0.25 s and one of 2.25 s; PyTorch's dense takes 1 s.
  row = '6.80 | 0.250 (0.200 to 0.300) | 0.260 |  | 0.054 | 3.85x | 1.54x |'
  assert row in text
  assert '4.3% of the time' in text


def test_predictions_are_compared_with_measurements(text):
  seconds = expected.seconds(
    '60m', 2, 1e9, 'powersgd', dense_alone=0.1, fast={'compress': 0.15}
  )
  assert f'{seconds:.3f} ({seconds / 0.2 - 1:+.0%})' in text


@pytest.fixture(scope='module')
def worker():
  shapes.LLAMAS['tiny'] = shapes.Llama(64, 96, 1)
  found = ours.Worker('tiny', jax.devices()[:1])
  found.run('greedylore_staggered', 'turn', 1)
  yield found
  del shapes.LLAMAS['tiny']


def test_the_worst_staggered_step_refreshes_the_largest_matrix(worker):
  phase = worker.plan.phase_at(worker.when('turn'))
  added = worker.plan.bytes_in(phase) - worker.plan.bytes_in('compress')
  assert added == 4 * max(m * n for m, n in shapes.matrices('tiny').values())


def on_link(rate, turn, method, seconds, sent=0, median=None):
  return {
    'hosts': 2,
    'turn': turn,
    'rate': rate,
    'milliseconds': 50.0,
    'method': method,
    'seconds': seconds,
    'median': median or seconds,
    'steps': 30 if median else 1,
    'sent': sent,
  }


def test_shares_of_links_are_of_the_same_turn_and_slow_links_are_predicted(
  tmp_path,
):
  lines = [
    on_link('10mbit', 0, 'alone', 1.0),
    on_link('10mbit', 1, 'alone', 2.0),  # The machine was busy.
    on_link('10mbit', 0, 'dense', 4.0, sent=2_500_000),
    on_link('10mbit', 1, 'dense', 8.0, sent=2_500_000),
    on_link('1mbit', 0, 'alone', 1.0),
    on_link('1mbit', 0, 'torch_alone', 0.5),
    on_link('1mbit', 0, 'powersgd_hook', 2.5),
    on_link('1mbit', 0, 'powersgd-30', 1.0, median=0.9),
  ]
  results = links_report.of(lines)
  place = links_report.Place(2, 50.0, '10mbit')
  assert results['dense'][place] == (6.0, 0.25, False)
  # 20 Mbit take 2 s at 10 Mbit/s and 20 s at 1 Mbit/s.
  slow = place._replace(rate='1mbit')
  assert results['dense'][slow] == (24.0, pytest.approx(1.5 / 24), True)
  assert results['powersgd_hook'] == {slow: (2.5, 0.2, False)}
  assert results['powersgd-30'] == {slow: (1.0, 0.9, False)}
  links_report.write(tmp_path, lines)
  text = (tmp_path / 'table.md').read_text(encoding='utf-8')
  assert '24 (6.2%) (p)' in text
  assert '| PowerSGD int8, every 30 steps |  | 3 |' in text, '30 (1.0 - 0.9) s'
  assert (tmp_path / 'links.png').stat().st_size > 10_000


def test_the_outlook_knows_what_a_link_does_to_a_step():
  """Faster links help, and on a slow one so do fewer bytes."""
  place = outlook.Place(64, 5e-6, tokens=16_384)
  links = 0.1, 1, 10, 100
  dense, _, short_rounds, *_, long_rounds, _ = (
    outlook.share_computing(method, '60M', place, links)
    for method in outlook.METHODS
  )
  for shares in (dense, short_rounds, long_rounds):
    assert 0 < shares[0] < shares[1] < shares[2] <= shares[3] <= 1
  assert dense[0] < short_rounds[0] < long_rounds[0]
  # 4 bytes of 58M parameters in a ring, but for the backward pass.
  wire = 2 * 63 / 64 * 4 * 58_073_600 / (0.95 * 1.25e7) + 2 * 63 * 5e-6
  compute = 6 * 58_073_600 * 16_384 / 4e14
  expected = compute / (compute + wire - 2 / 3 * compute)
  assert dense[0] == pytest.approx(expected, rel=1e-3)
