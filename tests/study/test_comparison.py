"""Do tables, figures and lines of results say what was measured?"""

import math

import pytest

from studies import result, run
from train.run import metrics
from train.study import comparison, figure, results

FINISHED = [
  (run('dense', rate=1e-3), result(2.2, 6000.0)),
  (run('dense', rate=2e-3), result(2.0, 6000.0)),
  (run('powersgd', 3.0, 1e-3), result(2.10, 2000.0, 0.02)),
  (run('powersgd', 3.0, 1e-3), result(2.14, 2000.0, 0.04)),
  (run('powersgd', 3.0, 1e-3), result(2.12, 2000.0, 0.03)),
  (run('powersgd', 3.0, 2e-3), result(2.01, 2000.0)),
  (run('powersgd', 3.0, 2e-3), result(3.01, 2000.0)),
  (run('powersgd', 8.0, 2e-3), result(math.nan, 750.0)),
  (run('powersgd', 8.0, 1e-3), result(2.5, 750.0)),
]


def cells(table, *begin):
  """The cells of the only line that begins so."""
  found = [
    x for x in table.splitlines() if x.startswith(f'| {" | ".join(begin)} |')
  ]
  assert len(found) == 1, f'one line was to begin with {begin}:\n{table}'
  return found[0].strip('| ').split(' | ')


def test_the_table_says_what_the_best_rate_gave():
  table = comparison.table(comparison.rows(FINISHED), bandwidth=1.2)
  measured, by_rate = table.split('Held-out loss by learning rate:')
  # A ring of 4 sends 1.5 times 2000 bytes: 20 ms at 1.2 Mbit/s.
  assert cells(measured, 'powersgd', '3x') == [
    'powersgd',
    '3x',
    'rank 3',
    '0.001',
    '2.1200 ± 0.0200 (3)',
    '+6.0%',
    '1.060',
    '2',
    '3.00',
    '30.0',
    '50.0',
  ]
  assert cells(measured, 'dense')[4:] == [
    '2.0000 (1)',
    '+0.0%',
    '1.000',
    '6',
    '1.00',
    '10.0',
    '70.0',
  ]
  assert cells(measured, 'powersgd', '8x')[3:5] == ['0.001', '2.5000 (1)']
  assert cells(by_rate, 'powersgd', '3x')[2:] == [
    '**2.1200 ± 0.0200 (3)**',
    '2.5100 ± 0.5000 (2)',
  ]
  assert cells(by_rate, 'dense')[2:] == ['2.2000 (1)', '**2.0000 (1)**']


def test_the_best_candidate_of_each_budget_is_bold():
  finished = [
    (run(f'powersgd:every={every}', times, group='powersgd'), result(loss))
    for times, every, loss in (
      (3.0, 1, 2.2),
      (3.0, 4, 2.1),
      (8.0, 4, 2.4),
      (8.0, 10, math.nan),
    )
  ]
  rows = comparison.rows([*finished, (run('dense'), result(2.0))])
  text = comparison.table(rows, 100)
  bold = [x.split(' | ')[:2] for x in text.splitlines() if '**' in x]
  assert bold == [
    ['| powersgd:every=4', '3x'],
    ['| powersgd:every=4', '8x'],
    ['| dense', ''],
  ]
  assert [row.loss for row in comparison.best(rows)] == [2.1, 2.4, 2.0]
  assert 'In bold' not in comparison.table(rows[-1:], 100)


def test_a_best_rate_at_an_end_of_the_grid_is_reported():
  finished = [(run('dense', rate=r), result(r)) for r in (1.0, 2.0, 3.0)]
  finished += [(run('sign', rate=r), result(abs(r - 2))) for r in (1.0, 2.0)]
  table = comparison.table(comparison.rows(finished), 100)
  assert 'Best at an end of the grid, so possibly beyond it: dense.' in table


def test_peaks_are_shown_where_they_are_known():
  known = [(run('powersgd'), result(2.0, peak_bytes=9e6))]
  table = comparison.table(comparison.rows(known), 100)
  assert cells(table, 'powersgd')[7:9] == ['1', '9,000']
  assert 'kB at peak' in table
  assert 'over dense' in table, 'without dense, the column is empty'


def test_a_curve_is_the_mean_over_the_seeds_and_predicts_its_time():
  rows = comparison.rows(FINISHED)
  expected = (
    {'step': 50, 'eval_loss': 2.62, 'bytes_sent': 1e5, 'seconds': 2.5},
    {'step': 100, 'eval_loss': 2.12, 'bytes_sent': 2e5, 'seconds': 5.0},
  )
  for found, point in zip(rows[1].curve(1.2), expected, strict=True):
    assert found == pytest.approx(point)


def test_the_figure_of_many_methods(tmp_path):
  methods = ['dense', *(f'method{i}' for i in range(14))]
  finished = [
    (run(method, budget), result(2.0 + i / 10, 1000.0 / (budget or 1)))
    for i, method in enumerate(methods)
    for budget in ([None] if method == 'dense' else [3.0, 8.0])
  ]
  rows = comparison.rows(finished)
  assert len({*figure.colors_of(rows).values()}) == len(methods)
  assert len({*figure.styles_of(rows).values()}) == 2
  figure.draw(tmp_path / 'compare.png', rows, 100.0)
  assert (tmp_path / 'compare.png').stat().st_size > 50_000


@pytest.mark.parametrize('loss', [2.0, math.nan, math.inf])
def test_a_figure_of_a_single_worker_or_of_nothing_finite(tmp_path, loss):
  rows = comparison.rows([(run('dense'), result(loss, sent=1e-9))])
  rows[0].lines[0]['summary']['num_workers'] = 1
  for point in rows[0].lines[0]['curve']['evaluations']:
    point['bytes_sent'] = 0
  figure.draw(tmp_path / 'compare.png', rows, 100.0)
  assert (tmp_path / 'compare.png').exists()


# Lines of results.


def logged(steps, seconds):
  return [
    {'step': s, 'loss': 3.0, 'seconds': t, 'bytes_sent': 9 * s}
    for s, t in zip(steps, seconds, strict=True)
  ]


@pytest.mark.parametrize('count', [1, 50, 51, 99, 100, 1234])
def test_a_thin_curve_has_at_most_fifty_points_and_the_last(count):
  lines = logged(range(10, 10 * count + 1, 10), range(count))
  points = metrics.curves(lines, 50)['training']
  assert min(count, 25) <= len(points) <= 50
  assert points[-1]['step'] == 10 * count
  assert points == sorted(points, key=lambda point: point['step'])


def test_evaluations_get_the_seconds_of_training():
  lines = logged([10, 20], [1.0, 3.0])
  held_out = {'step': 15, 'eval_loss': 4.0, 'bytes_sent': 135}
  lines.insert(1, held_out)
  found = metrics.curves(lines, 50)['evaluations']
  assert found == [held_out | {'seconds': 2.0}]


def test_a_pause_does_not_count_as_seconds_per_step():
  assert results.steady_seconds(logged([10, 20, 30], [1.0, 60.0, 61.0])) == 0.1
