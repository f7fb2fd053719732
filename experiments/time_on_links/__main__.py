"""`python -m experiments.time_on_links`: the table and the figure.

A link does not change what a step computes. So the steps to a loss come from
the training runs in results.jsonl, and what a step waits for from the lines of
`benchmarks.network.links`. Every step is taken to compute for as long as one
worker alone: what was measured with different load then compares. Every method
has the best of its learning rates.
"""

import collections
import itertools
import json
import math
import pathlib
import statistics
from typing import Any, NamedTuple

from matplotlib import figure, ticker

from benchmarks.network import links_report
from experiments.time_on_links import cells
from train.study import tables

_HERE = pathlib.Path(__file__).parent
_LINKS = _HERE.parent / 'links' / 'results.jsonl'
_HOSTS = 2, 4


class Row(NamedTuple):
  """A method.

  Attributes:
    method: a key of `links_report.NAMES`.
    rate: the best learning rate.
    times_fewer: dense bytes over those of the run.
    over_dense: held-out loss over that of dense after as many steps.
    steps: to dense's loss; None if the run does not have it.
    seconds: per step, by link; those of a prediction are in `predicted`.
    predicted: the links on which nothing was measured.
  """

  method: str
  rate: float
  times_fewer: float
  over_dense: float
  steps: float | None
  seconds: dict[links_report.Place, float]
  predicted: set[links_report.Place]


def rows(
  runs: list[dict[str, Any]], lines: list[dict[str, Any]], hosts: int
) -> list[Row]:
  """A row for each method that was trained and measured on so many hosts."""
  trained = collections.defaultdict(list)
  for run in runs:
    if 'error' not in run:
      trained[run['overrides']].append(run)
  dense = trained[cells.words('dense', hosts)]
  if not dense:
    return []
  last, target = min((x['curve'][-1] for x in dense), key=lambda end: end[1])
  # The best of its rates: in steps, or in loss if none of them gets there.
  badness = lambda run: (
    reached(run['curve'], target) or math.inf,
    dict(run['curve'])[last],
  )
  alone = statistics.median(
    x['seconds'] for x in lines if (x['method'], x['hosts']) == ('alone', hosts)
  )
  measured = links_report.of(lines)
  found = []
  for method in links_report.NAMES:
    same = cells.SAME.get(method, method)
    if same not in cells.METHODS or method not in measured:
      continue
    if not (tried := trained.get(cells.words(same, hosts))):
      continue
    run = min(tried, key=badness)
    here = {p: x for p, x in measured[method].items() if p.hosts == hosts}
    found.append(
      Row(
        method,
        run['rate'],
        run['times_fewer'],
        dict(run['curve'])[last] / target - 1,
        reached(run['curve'], target),
        {p: alone + x.seconds * (1 - x.share) for p, x in here.items()},
        {p for p, x in here.items() if x.is_predicted},
      )
    )
  return found


def reached(curve: list[tuple[int, float]], target: float) -> float | None:
  """The step at which a curve has a loss, between two evaluations."""
  for (begin, high), (end, low) in itertools.pairwise(curve):
    if low <= target:
      share = (high - target) / (high - low) if high > target else 0.0
      return begin + share * (end - begin)
  return None


def table(found: list[Row]) -> str:
  """Steps and seconds to dense's loss, and how many times sooner than DDP."""
  places = sorted(
    {p for row in found for p in row.seconds},
    key=lambda p: (-p.bits, p.milliseconds),
  )
  (ddp,) = (row for row in found if row.method == 'ddp')
  lines = []
  for row in found:
    steps = 'not reached' if row.steps is None else f'{row.steps:.0f}'
    times = [_cell(row, ddp, p) for p in places]
    name = links_report.NAMES[row.method]
    fewer, over = f'{row.times_fewer:,.0f}', f'{100 * row.over_dense:+.1f} %'
    lines.append([name, fewer, f'{row.rate:g}', over, steps, *times])
  titles = [p.link for p in places]
  columns = ['', 'times fewer bytes', 'rate', 'over dense', 'steps', *titles]
  return tables.table(columns, lines)


def _cell(row: Row, ddp: Row, place: links_report.Place) -> str:
  if row.steps is None or ddp.steps is None or place not in row.seconds:
    return ''
  seconds = row.steps * row.seconds[place]
  sooner = ddp.steps * ddp.seconds[place] / seconds
  mark = ' (p)' if place in row.predicted else ''
  return f'{seconds:,.0f} ({sooner:.3g}){mark}'


def draw(path: pathlib.Path, found: dict[int, list[Row]]) -> None:
  """Seconds to dense's loss over the rate of the links.

  A row of panels for each number of hosts, with a panel for each delay.
  """
  every = {p for rows in found.values() for row in rows for p in row.seconds}
  delays = sorted({p.milliseconds for p in every})
  drawn = figure.Figure(figsize=(5.4 * len(delays), 0.6 + 5 * len(found)))
  drawn.set_layout_engine('constrained')
  panels = drawn.subplots(len(found), len(delays), squeeze=False, sharey=True)
  for (hosts, of_hosts), line in zip(found.items(), panels, strict=True):
    for delay, ax in zip(delays, line, strict=True):
      for row in of_hosts:
        points = sorted(
          (p.bits / 1e6, row.steps * seconds, p in row.predicted)
          for p, seconds in row.seconds.items()
          if p.milliseconds == delay and row.steps is not None
        )
        if points:
          links_report.draw_method(ax, row.method, points)
      links_report.prepare(ax, hosts, delay)
      ax.set_yscale('log')
      ax.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    line[0].set_ylabel("seconds to dense's loss (open: predicted)")
  for ax in panels[-1]:
    ax.set_xlabel('Mbit/s of a link')
  links_report.name_methods(drawn)
  drawn.savefig(path, dpi=120)


def main() -> None:
  """Writes both."""
  read = lambda path: [*map(json.loads, path.read_text('utf-8').splitlines())]
  runs, lines = read(_HERE / 'results.jsonl'), read(_LINKS)
  every = {hosts: rows(runs, lines, hosts) for hosts in _HOSTS}
  found = {hosts: of_hosts for hosts, of_hosts in every.items() if of_hosts}
  parts = [f'## {hosts} hosts\n\n{table(x)}' for hosts, x in found.items()]
  (_HERE / 'table.md').write_text('\n'.join(parts), encoding='utf-8')
  draw(_HERE / 'time_on_links.png', found)


if __name__ == '__main__':
  main()
