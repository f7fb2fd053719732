"""A study as a table: what each method reached, and at which cost."""

import dataclasses
import math
import statistics
from typing import Any

from train.run import traffic
from train.study import grid
from train.study import tables
from train.study.results import Line

# What the final scores of a summary begin with, that of the loss included.
_SCORE = 'final_eval_'


@dataclasses.dataclass(frozen=True)
class Row:
  """The finished runs of a method within a budget."""

  method: str
  """Its entry: 'greedylore:probes=0'."""
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
    return statistics.fmean(_number(x['summary'].get(key)) for x in self.lines)

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
        _number(x[step][key]) for x in runs
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
    new = Row(run.entry, run.budget, run.knob, {})
    by_rate = found.setdefault(key, new).by_rate
    rate = run.config.optimizer.learning_rate
    by_rate.setdefault(rate, []).append(line)
  return list(found.values())


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
  dense = min(
    (row.loss for row in rows if row.method.split(':')[0] == 'dense'),
    default=None,
  )
  summaries = [x['summary'] for row in rows for x in row.lines]
  peak = all('peak_bytes' in summary for summary in summaries)
  scores = dict.fromkeys(
    key
    for summary in summaries
    for key in summary
    if key.startswith(_SCORE) and key != f'{_SCORE}loss'
  )
  columns = [
    'method',
    'budget',
    'setting',
    'learning rate',
    'held-out loss (seeds)',
    'over dense',
    *(_title(score) for score in scores),
    'kB per step',
    *(['kB at peak'] if peak else []),
    'times fewer',
    'ms per step',
    f'ms at {bandwidth:g} Mbit/s',
  ]
  cells = [_cells(row, dense, [*scores], peak, bandwidth) for row in rows]
  text = tables.table(columns, cells)
  text += (
    '\nHeld-out loss: nats, or for scores the squared error; mean and half the'
    ' range over the seeds, at the best learning rate of the method. Times'
    ' fewer: bytes of dense averaging over bytes sent, over the whole run. ms'
    ' at a bandwidth: measured computing, then 2 (N - 1) / N times the bytes on'
    ' the link of each of N workers.\n'
  )
  rates = sorted({rate for row in rows for rate in row.by_rate})
  if len(rates) > 1:
    text += '\nHeld-out loss by learning rate:\n\n' + tables.table(
      ['method', 'budget', *(f'{rate:g}' for rate in rates)],
      [[row.method, _times(row), *_grid_cells(row, rates)] for row in rows],
    )
  ends = [row for row in rows if row.rate in (rates[0], rates[-1])]
  if len(rates) > 2 and ends:
    names = ', '.join(f'{row.method} {_times(row)}'.rstrip() for row in ends)
    text += f'\nBest at an end of the grid, so possibly beyond it: {names}.\n'
  return text


def _title(score: str) -> str:
  return score.removeprefix(_SCORE).replace('_', ' ')


def _cells(row, dense, scores, peak, bandwidth) -> list[str]:
  """What the table says of a row."""
  over = row.loss / dense if dense else math.nan
  sent = row.mean('bytes_per_step')
  seconds = row.compute_seconds
  wire = wire_seconds(row.lines[0], sent, bandwidth)
  return [
    row.method,
    _times(row),
    f'{row.knob.name} {row.knob.value:g}' if row.knob else '',
    f'{row.rate:g}',
    _spread(row.lines),
    f'{over - 1:+.1%}' if math.isfinite(over) else '',
    *(f'{row.mean(score):.3f}' for score in scores),
    f'{sent / 1e3:,.0f}',
    *([f'{row.mean("peak_bytes") / 1e3:,.0f}'] if peak else []),
    f'{row.mean("compression"):.2f}',
    f'{1e3 * seconds:.1f}',
    f'{1e3 * (seconds + wire):.1f}',
  ]


def _grid_cells(row, rates) -> list[str]:
  """The losses of a row at every rate, its best one in bold."""
  cells = []
  for rate in rates:
    text = _spread(row.by_rate[rate]) if rate in row.by_rate else ''
    cells.append(f'**{text}**' if rate == row.rate else text)
  return cells


def _times(row) -> str:
  return '' if row.budget is None else f'{row.budget:g}x'


def _spread(lines: list[Line]) -> str:
  """Mean of the held-out losses, half of their range, and how many."""
  losses = _losses(lines)
  half = (max(losses) - min(losses)) / 2
  spread = f' ± {half:.4f}' if len(losses) > 1 else ''
  return f'{statistics.fmean(losses):.4f}{spread} ({len(losses)})'


def _losses(lines: list[Line]) -> list[float]:
  return [_number(line['summary']['final_eval_loss']) for line in lines]


def _number(value: float | None) -> float:
  """NaN for null, which stands for a number that is not finite."""
  return math.nan if value is None else value
