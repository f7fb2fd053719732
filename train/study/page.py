"""The page of a study: report.html."""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

from train.config import differences
from train.config.schema import Config
from train.page import chart, document
from train.run import paths
from train.study import comparison, grid, tables
from train.study.results import Line


class Finished(NamedTuple):
  """A finished run."""

  run: grid.Run
  line: Line
  report: str | None
  """The path of its own page from that of the study, if it is still there."""


def render(
  name: str,
  rows: Sequence[comparison.Row],
  finished: Sequence[Finished],
  *,
  bandwidth: float,
  unit: str,
) -> str:
  """HTML that loads nothing, of the table's rows and of the runs behind them.

  `bandwidth` is for predicted times, in Mbit/s; `unit` is that of the loss.
  """
  colors = _colors(rows)
  return document.page(
    name,
    [f'{len(finished)} finished runs of {len(colors)} methods'],
    [
      _tables(rows, bandwidth),
      _figure(comparison.best([*rows]), colors, bandwidth, unit),
      _runs(finished, colors, unit),
      _configuration([x.run.config for x in finished]),
    ],
  )


def _colors(rows: Sequence[comparison.Row]) -> dict[str, int | None]:
  """A color for each method; dense has that of the text."""
  methods = dict.fromkeys(row.method for row in rows)
  colored = [x for x in methods if x != 'dense']
  return {x: None if x == 'dense' else colored.index(x) for x in methods}


def _tables(rows: Sequence[comparison.Row], bandwidth: float) -> document.Html:
  """What table.md shows."""
  return document.section(
    'Table',
    [
      document.table(part.columns, part.rows)
      if isinstance(part, tables.Table)
      else document.note(part)
      for part in comparison.explained([*rows], bandwidth)
    ],
  )


def _figure(
  rows: Sequence[comparison.Row],
  colors: dict[str, int | None],
  bandwidth: float,
  unit: str,
) -> document.Html:
  """What compare.png shows."""
  budgets = sorted({x.budget for x in rows if x.budget is not None})
  dash = lambda budget: budgets.index(budget) if budget in budgets else 0
  curves = [
    (
      f'{row.method} {row.budget:g}x' if row.budget else row.method,
      row.curve(bandwidth),
      chart.Look(colors[row.method], dash(row.budget), dots=True),
    )
    for row in rows
  ]
  return document.section(
    'Figure',
    document.panels(*_panels(curves, unit, bandwidth)),
    chart.legend(
      [(row.method, chart.Look(colors[row.method])) for row in rows]
      + [
        (f'{x:g}x fewer bytes', chart.Look(None, dash(x)))
        for x in budgets
        if len(budgets) > 1
      ]
    ),
    document.note(
      'Means over the seeds, each method at its best learning rate. Losses'
      ' far above those at the end are cut off. The same as a picture: ',
      document.link(paths.FIGURE, paths.FIGURE),
    ),
  )


def _runs(
  finished: Sequence[Finished], colors: dict[str, int | None], unit: str
) -> document.Html:
  """The curve of every run, and a line with a link to its own page."""
  curves = [
    (
      run.title,
      [
        point | {'eval_loss': comparison.number(point['eval_loss'])}
        for point in line['curve']['evaluations']
      ],
      chart.Look(colors[run.entry], dots=True, faint=True),
    )
    for run, line, _ in finished
  ]
  loss = lambda line: comparison.number(line['summary']['final_eval_loss'])
  return document.section(
    'Every run',
    document.panels(*_panels(curves, unit)),
    document.table(
      ['run', 'held-out loss', 'times fewer', 'minutes', 'date', 'commit'],
      [
        [
          document.link(report, run.title) if report else run.title,
          f'{loss(line):.4f}',
          f'{line["summary"]["compression"]:.2f}',
          f'{line["wall_seconds"] / 60:,.1f}',
          line.get('date', ''),
          line.get('commit') or '',
        ]
        for run, line, report in finished
      ],
    ),
  )


def _panels(
  curves: Sequence[tuple[str, Sequence[dict[str, Any]], chart.Look]],
  unit: str,
  bandwidth: float | None = None,
) -> list[document.Html]:
  """Held-out losses against steps, bytes and, if predicted, time."""
  within = chart.focus([[x['eval_loss'] for x in of] for _, of, _ in curves])

  def against(key: str, title: str, scale: float = 1.0) -> document.Html:
    return chart.lines(
      [
        chart.Curve(name, [(scale * x[key], x['eval_loss']) for x in of], look)
        for name, of, look in curves
      ],
      x=title,
      y=f'held-out loss [{unit}]',
      within=within,
      log_x=key == 'bytes_sent',
    )

  found = [against('step', 'step')]
  if any(x['bytes_sent'] for _, of, _ in curves for x in of):
    found.append(against('bytes_sent', 'sent per worker [MB]', 1e-6))
  if bandwidth:
    title = f'predicted time at {bandwidth:g} Mbit/s [s]'
    found.append(against('seconds', title))
  return found


def _configuration(configs: Sequence[Config]) -> document.Html:
  """What all runs have in common, and the names of what differs."""
  flat = [differences.flat(dataclasses.asdict(x)) for x in configs]
  common = {
    key: value
    for key, value in flat[0].items()
    if all(x[key] == value for x in flat)
  }
  usual = differences.flat(dataclasses.asdict(Config()))
  varied = ', '.join(key for key in flat[0] if key not in common)
  return document.section(
    'Configuration of all runs',
    document.configuration(common, usual),
    document.note(f'Differs between runs: {varied}.') if varied else None,
    document.note(
      'The numbers behind this page: ',
      document.link(paths.RESULTS, paths.RESULTS),
      ' ',
      document.link(paths.TABLE, paths.TABLE),
    ),
  )
