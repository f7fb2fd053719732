"""A study as a table: what each method reached, and at which cost."""

from collections.abc import Callable
import dataclasses
import functools
import math
import statistics
from typing import Any

from train.run import traffic
from train.study import grid, tables
from train.study.results import Line

# What the final scores of a summary begin with, that of the loss included.
_SCORE = 'final_eval_'


@dataclasses.dataclass(frozen=True)
class Row:
  """The finished runs of a method within a budget."""

  method: str
  """Its entry: 'greedylore:probes=0'."""
  group: str
  """The entry that it is a candidate of, or its own."""
  budget: float | None
  knob: grid.Knob | None
  by_rate: dict[float, list[Line]]
  """A line per seed."""

  @property
  def rate(self) -> float:
    """The learning rate with the lowest mean held-out loss."""
    return min(self.by_rate, key=self.loss_at)

  @property
  def lines(self) -> list[Line]:
    """The results at the best learning rate, one per seed."""
    return self.by_rate[self.rate]

  @property
  def loss(self) -> float:
    """Mean held-out loss over the seeds, at the best learning rate."""
    return self.loss_at(self.rate)

  def loss_at(self, rate: float) -> float:
    """Mean held-out loss over the seeds; infinite if one of them has none."""
    mean = statistics.fmean(_losses(self.by_rate[rate]))
    return math.inf if math.isnan(mean) else mean

  def mean(self, key: str) -> float:
    """Mean over the seeds of a number of the summaries, at the best rate."""
    return statistics.fmean(number(x['summary'].get(key)) for x in self.lines)

  @property
  def compute_seconds(self) -> float:
    """Median over the seeds of the seconds of a step, as measured."""
    return statistics.median(x['seconds_per_step'] for x in self.lines)

  def curve(self, bandwidth: float) -> list[dict[str, float]]:
    """The means over the seeds at every evaluation, at the best rate.

    The seconds are predicted for links of that many Mbit/s; see `wire_seconds`.
    """
    runs = [
      {x['step']: x for x in line['curve']['evaluations']}
      for line in self.lines
    ]
    points = []
    for step in sorted(set.intersection(*map(set, runs))):
      mean = lambda key, step=step: statistics.fmean(
        number(x[step][key]) for x in runs
      )
      wire = wire_seconds(self.lines[0], mean('bytes_sent'), bandwidth)
      points.append(
        {
          'step': step,
          'eval_loss': mean('eval_loss'),
          'bytes_sent': mean('bytes_sent'),
          'seconds': step * self.compute_seconds + wire,
        }
      )
    return points


def rows(finished: list[tuple[grid.Run, Line]]) -> list[Row]:
  """The results of the runs as one row per method and budget, in order."""
  found: dict[Any, Row] = {}
  for run, line in finished:
    key = run.entry, run.budget
    new = Row(run.entry, run.group, run.budget, run.knob, {})
    by_rate = found.setdefault(key, new).by_rate
    rate = run.config.optimizer.learning_rate
    by_rate.setdefault(rate, []).append(line)
  return list(found.values())


def best(rows: list[Row]) -> list[Row]:
  """The row with the lowest loss of every entry and budget, in order."""
  found: dict[Any, Row] = {}
  for row in rows:
    key = row.group, row.budget
    found[key] = min(found.get(key, row), row, key=lambda x: x.loss)
  return [row for row in rows if any(row is x for x in found.values())]


def wire_seconds(line: Line, num_bytes: float, bandwidth: float) -> float:
  """The seconds that bytes take on the link of a worker, in a ring all-reduce.

  That is 2 (N - 1) / N * bytes / bandwidth for N workers, without latency and
  without overlap with the computation. A predicted time adds this to the
  measured seconds of computing on the machine that ran the study, where N
  virtual workers share the processors. It compares methods; it does not predict
  the time on another machine. `bandwidth` is in Mbit/s.
  """
  ring = traffic.ring_factor(line['summary']['num_workers'])
  return ring * num_bytes * 8e-6 / bandwidth


def table(rows: list[Row], bandwidth: float) -> str:
  """The rows in Markdown, and the learning rates if there were several."""
  parts = explained(rows, bandwidth)
  lines = [x if isinstance(x, str) else f'{x}'.rstrip('\n') for x in parts]
  return '\n\n'.join(lines) + '\n'


def explained(rows: list[Row], bandwidth: float) -> list[str | tables.Table]:
  """The tables of a study, each with the sentences that explain it."""
  columns = _columns(rows, bandwidth)
  parts: list[str | tables.Table] = [
    tables.Table(
      [*columns], [[cell(row) for cell in columns.values()] for row in rows]
    ),
    'Held-out loss: nats, or for scores the squared error; mean and half the'
    ' range over the seeds, at the best learning rate of the method. Times'
    ' fewer: bytes of dense averaging over bytes sent, over the whole run. ms'
    ' at a bandwidth: measured computing, then 2 (N - 1) / N times the bytes on'
    ' the link of each of N workers.',
  ]
  if len(best(rows)) < len(rows):
    parts.append(
      'In bold: the best of the candidates of an entry and a budget. The figure'
      ' shows these.'
    )
  rates = sorted({rate for row in rows for rate in row.by_rate})
  if len(rates) > 1:
    parts += [
      'Held-out loss by learning rate:',
      tables.Table(
        ['method', 'budget', *(f'{rate:g}' for rate in rates)],
        [[row.method, _times(row), *_grid_cells(row, rates)] for row in rows],
      ),
    ]
  ends = [row for row in rows if row.rate in (rates[0], rates[-1])]
  if len(rates) > 2 and ends:
    names = ', '.join(f'{row.method} {_times(row)}'.rstrip() for row in ends)
    parts.append(f'Best at an end of the grid, so possibly beyond it: {names}.')
  return parts


def _columns(
  rows: list[Row], bandwidth: float
) -> dict[str, Callable[[Row], str]]:
  """The titles of the columns, and how to make a cell of a row."""
  is_dense = lambda row: row.method.split(':')[0] == 'dense'
  dense = min((x.loss for x in rows if is_dense(x)), default=math.nan)
  summaries = [x['summary'] for row in rows for x in row.lines]
  keys = dict.fromkeys(key for summary in summaries for key in summary)
  scores = [x for x in keys if x.startswith(_SCORE) and x != f'{_SCORE}loss']

  def over_dense(row: Row) -> str:
    over = row.loss / dense if dense else math.nan
    return f'{over - 1:+.1%}' if math.isfinite(over) else ''

  def seconds(row: Row) -> float:
    sent = row.mean('bytes_per_step')
    return row.compute_seconds + wire_seconds(row.lines[0], sent, bandwidth)

  bests = best(rows)

  def losses(row: Row) -> str:
    is_best = len(bests) < len(rows) and any(row is x for x in bests)
    return _bold(_spread(row.lines), is_best)

  knob = lambda x: f'{x.name} {x.value:g}' if x else ''
  columns: dict[str, Callable[[Row], str]] = {
    'method': lambda row: row.method,
    'budget': _times,
    'setting': lambda row: knob(row.knob),
    'learning rate': lambda row: f'{row.rate:g}',
    'held-out loss (seeds)': losses,
    'over dense': over_dense,
  }
  for score in scores:
    title = score.removeprefix(_SCORE).replace('_', ' ')
    columns[title] = functools.partial(_mean, key=score)
  columns['kB per step'] = lambda row: _kilobytes(row, 'bytes_per_step')
  if all('peak_bytes' in summary for summary in summaries):
    columns['kB at peak'] = lambda row: _kilobytes(row, 'peak_bytes')
  return columns | {
    'times fewer': lambda row: f'{row.mean("compression"):.2f}',
    'ms per step': lambda row: f'{1e3 * row.compute_seconds:.1f}',
    f'ms at {bandwidth:g} Mbit/s': lambda row: f'{1e3 * seconds(row):.1f}',
  }


def _mean(row: Row, key: str) -> str:
  return f'{row.mean(key):.3f}'


def _kilobytes(row: Row, key: str) -> str:
  return f'{row.mean(key) / 1e3:,.0f}'


def _grid_cells(row: Row, rates: list[float]) -> list[str]:
  """The losses of a row at every rate, its best one in bold."""
  cells = []
  for rate in rates:
    text = _spread(row.by_rate[rate]) if rate in row.by_rate else ''
    cells.append(_bold(text, rate == row.rate))
  return cells


def _bold(text: str, is_bold: bool) -> str:
  return f'**{text}**' if is_bold else text


def _times(row: Row) -> str:
  return '' if row.budget is None else f'{row.budget:g}x'


def _spread(lines: list[Line]) -> str:
  """Mean of the held-out losses, half of their range, and how many."""
  losses = _losses(lines)
  half = (max(losses) - min(losses)) / 2
  spread = f' ± {half:.4f}' if len(losses) > 1 else ''
  return f'{statistics.fmean(losses):.4f}{spread} ({len(losses)})'


def _losses(lines: list[Line]) -> list[float]:
  return [number(line['summary']['final_eval_loss']) for line in lines]


def number(value: float | None) -> float:
  """NaN for null, which stands for a number that is not finite."""
  return math.nan if value is None else value
