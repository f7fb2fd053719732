"""`python -m experiments.simulated.report FOLDER`: tables and a figure.

Reads FOLDER/results*.jsonl and writes table.md and compare.png next to them.
Every row is a cell at its best learning rate by the first seed, of those rates
that have the most seeds. If there are several rates, rates.md has them all.
"""

from collections.abc import Iterable
import math
import pathlib
import sys

from experiments.simulated import figure, rows
from train.study import tables

_COLUMNS = (
  'times fewer bytes',
  'what is sent',
  'when',
  'rate',
  'held-out nats',
  'seeds',
  'over dense',
  'gain kept',
)


def main(folder: str) -> None:
  """Writes them."""
  path = pathlib.Path(folder)
  groups = rows.read(path)
  (path / 'table.md').write_text(table(groups), encoding='utf-8')
  if of_rates := rates_table(groups):
    (path / 'rates.md').write_text(of_rates, encoding='utf-8')
  figure.draw(path / 'compare.png', groups)


def table(groups: Iterable[rows.Group]) -> str:
  """All groups in Markdown."""
  parts = []
  for group in groups:
    setting = group.setting
    shown = ([group.alone] if group.alone else []) + group.rows
    parts += [
      f'## {setting}, {setting.steps:,} steps of {setting.length} tokens',
      '',
      tables.table(_COLUMNS, [_cells(group, row) for row in shown]),
    ]
  return '\n'.join(parts)


def rates_table(groups: Iterable[rows.Group]) -> str:
  """The first seed at all rates, of cells that have several, in Markdown.

  In parentheses, over dense at its best rate.
  """
  parts = []
  for group in groups:
    shown = [row for row in group.rows if len(row.of_rates) > 1]
    rates = sorted({rate for row in shown for rate in row.of_rates})
    columns = ['what is sent', 'when', *(f'{rate:g}' for rate in rates)]
    cells = [
      [
        rows.what(row.config),
        rows.when(row.config),
        *(_of_rate(group, row, x) for x in rates),
      ]
      for row in shown
    ]
    if shown:
      title = f'## {group.setting}: held-out nats of the first seed'
      parts += [title, '', tables.table(columns, cells)]
  return '\n'.join(parts)


def _of_rate(group: rows.Group, row: rows.Row, rate: float) -> str:
  loss = row.of_rates.get(rate, math.nan)
  over = group.over_dense({min(row.losses): loss})
  said = _digits(loss, '.4f')
  return f'{said} ({over:+.1f} %)' if math.isfinite(over) else said


def _cells(group: rows.Group, row: rows.Row) -> list[str]:
  half = (max(row.losses.values()) - min(row.losses.values())) / 2
  several = len(row.losses) > 1 and math.isfinite(half)
  is_alone = row.times_fewer is None
  return [
    '' if is_alone else _three_digits(row.times_fewer),
    'one worker alone' if is_alone else rows.what(row.config),
    '' if is_alone else rows.when(row.config),
    f'{row.rate:g}' + (' (end of the grid)' if row.at_end else ''),
    _digits(row.loss, '.4f') + (f' ± {half:.4f}' if several else ''),
    str(len(row.losses)),
    _digits(group.over_dense(row.losses), '+.1f', ' %'),
    _digits(group.kept(row.losses), '.0f', ' %'),
  ]


def _three_digits(x: float) -> str:
  return f'{x:.3g}' if x < 999.5 else f'{x:,.0f}'


def _digits(x: float, form: str, unit: str = '') -> str:
  if math.isnan(x):
    return ''
  return f'{x:{form}}{unit}' if math.isfinite(x) else 'diverged'


if __name__ == '__main__':
  main(*sys.argv[1:])
