"""Tables and figures of `benchmarks.network.time_to_loss`."""

from collections.abc import Callable, Iterator
import itertools
import math
import pathlib
from typing import Any

import matplotlib
import numpy as np

from benchmarks.network import hosts as hosts_lib
from train.study import tables

matplotlib.use('Agg')
from matplotlib import ticker
import matplotlib.pyplot as plt

Line = dict[str, Any]
_COLORS = {
  'GreedyLore, r = 32': '#1f77b4',
  'GreedyLore, r = 8': '#d62728',
  'PowerSGD, int8, r = 32': '#2ca02c',
  'dense': 'black',
}
_Clock = Callable[[Line, str], list[float]]
# Seconds of computation in a step, assumed to be equal for all methods.
_COMPUTING = 0.5
# Of a frame of 1,514 bytes on an Ethernet card, 1,448 are inside of TCP.
_FRAMES = 1514 / 1448


def write(folder: pathlib.Path, runs: list[Line]) -> None:
  """Writes table.md and two figures of the finished runs."""
  if not runs:
    return
  clocks = {
    'Steps count as the median of their phase at that rate.': typical,
    'Steps count as the fastest tenth of their phase at that rate, nearer to'
    ' what an otherwise idle machine would do.': quiet,
    f'Predicted: {_COMPUTING:g} s of computation in every step of every'
    ' method, and then its bytes, with the ring and the headers, at that'
    ' rate.': predicted,
  }
  texts = [
    '# Time to a loss\n',
    'Written by `python -m benchmarks.network.time_to_loss`; README.md'
    ' explains it.\n',
    *(
      x for words, clock in clocks.items() for x in _tables(runs, clock, words)
    ),
    'Seconds of a step: median (fastest tenth, slowest tenth) of that many'
    ' steps. MB: what the step sends, without the ring.\n',
    _step_table(runs),
  ]
  (folder / 'table.md').write_text('\n'.join(texts), encoding='utf-8')
  draw(folder / 'time_to_loss.png', runs, typical, 'measured, medians of steps')
  words = f'predicted, with {_COMPUTING:g} s of computation in every step'
  draw(folder / 'predicted.png', runs, predicted, words)


def step_seconds(line: Line) -> dict[tuple[str, str], list[float]]:
  """(rate, phase) -> seconds of those steps, without the first step."""
  found: dict[tuple[str, str], list[float]] = {}
  columns = zip(line['rates'], line['phases'], line['seconds'], strict=True)
  for rate, phase, seconds in itertools.islice(columns, 1, None):
    found.setdefault((rate, phase), []).append(seconds)
  return found


def typical(line: Line, rate: str) -> list[float]:
  """Seconds of each step at one rate: medians of their phase."""
  return _by_phase(line, rate, 0.5)


def quiet(line: Line, rate: str) -> list[float]:
  """Seconds of each step at one rate: the fastest tenth of their phase."""
  return _by_phase(line, rate, 0.1)


def _by_phase(line: Line, rate: str, quantile: float) -> list[float]:
  timed = step_seconds(line)
  each = {
    phase: float(np.quantile(timed[rate, phase], quantile))
    for phase in set(line['phases'])
  }
  return [each[phase] for phase in line['phases']]


def predicted(line: Line, rate: str) -> list[float]:
  """Seconds of each step by its bytes, with equal computation for all."""
  ring = 2 * (line['hosts'] - 1) / line['hosts']
  per_byte = 8 * ring * _FRAMES / hosts_lib.bits_per_second(rate)
  sent = itertools.pairwise([0, *line['bytes_sent']])
  return [_COMPUTING + per_byte * (b - a) for a, b in sent]


def seconds_to(line: Line, rate: str, target: float, clock: _Clock) -> float:
  """When the held-out loss reaches a target; infinite if it does not.

  Between two evaluations the loss is interpolated linearly.
  """
  after_step = [*itertools.accumulate(clock(line, rate), initial=0.0)]
  for (a, before), (b, after) in itertools.pairwise(line['evaluations']):
    if after <= target:
      share = max(0.0, (before - target) / (before - after))
      return after_step[a] + share * (after_step[b] - after_step[a])
  return math.inf


def rates(runs: list[Line]) -> list[str]:
  """All rates, the slowest first."""
  found = {rate for line in runs for rate in line['rates']}
  return sorted(found, key=hosts_lib.bits_per_second)


def _by_hosts(runs: list[Line]) -> dict[int, list[Line]]:
  counts = sorted({line['hosts'] for line in runs})
  return {n: [x for x in runs if x['hosts'] == n] for n in counts}


def _end(line: Line) -> float:
  """The last held-out loss of a run."""
  return line['evaluations'][-1][1]


def _tables(runs: list[Line], clock: _Clock, words: str) -> Iterator[str]:
  """Losses, bytes, and the seconds to two losses at each rate."""
  every = rates(runs)
  for count, group in _by_hosts(runs).items():
    target = max(map(_end, group))
    dense = next((x for x in group if x['method'] == 'dense'), group[0])
    yield (
      f'{count} hosts. Seconds of training, A: to a held-out loss of'
      f' {target:.3f}, which all reach; B: to the lowest loss that both this'
      ' method and dense reach. In parentheses: how many times faster than'
      f' dense it reaches that loss. {words}\n'
    )
    rows = []
    for line in group:
      first = [line['method'], f'{_end(line):.4f}']
      first.append(f'{line["bytes_sent"][-1] / 1e6:,.0f}')
      both = max(_end(line), _end(dense))
      for name, loss in (('A', target), ('B', both)):
        seconds = [seconds_to(line, rate, loss, clock) for rate in every]
        cells = [f'{x:,.0f}' for x in seconds]
        if line is not dense:
          of_dense = [seconds_to(dense, rate, loss, clock) for rate in every]
          ratios = [a / b for a, b in zip(of_dense, seconds, strict=True)]
          cells = [f'{x} ({y:.2f})' for x, y in zip(cells, ratios, strict=True)]
        rows.append([*first, name, *cells])
        first = [''] * 3
    columns = ['method', 'held-out nats', 'MB sent', '', *every]
    yield tables.table(columns, rows)


def _step_table(runs: list[Line]) -> str:
  """Seconds of a step, by its phase and the rate."""
  every, rows = rates(runs), []
  for line in itertools.chain(*_by_hosts(runs).values()):
    sent = [0, *line['bytes_sent']]
    timed = step_seconds(line)
    for phase in dict.fromkeys(line['phases']):
      i = line['phases'].index(phase)
      cells = [_quantiles(timed.get((rate, phase), [])) for rate in every]
      size = f'{(sent[i + 1] - sent[i]) / 1e6:.2f}'
      rows.append([line['hosts'], line['method'], phase, size, *cells])
  return tables.table(['hosts', 'method', 'step', 'MB', *every], rows)


def _quantiles(seconds: list[float]) -> str:
  if not seconds:
    return ''
  low, middle, high = np.quantile(seconds, [0.1, 0.5, 0.9])
  return f'{middle:.2f} ({low:.2f}, {high:.2f}) of {len(seconds)}'


def draw(
  path: pathlib.Path, runs: list[Line], clock: _Clock, words: str
) -> None:
  """Held-out loss against minutes, a panel per rate, and against bytes."""
  every = rates(runs)
  groups = _by_hosts(runs)
  figure, grid = plt.subplots(
    len(groups),
    len(every) + 1,
    sharey=True,
    squeeze=False,
    figsize=(4 * (len(every) + 1), 3.6 * len(groups)),
    layout='constrained',
  )
  for axes, (count, group) in zip(grid, groups.items(), strict=True):
    for line in group:
      style: dict[str, Any] = {
        'color': _COLORS[line['method']],
        'label': line['method'],
        'marker': 'o',
        'ms': 3,
      }
      steps, losses = zip(*line['evaluations'], strict=True)
      for ax, rate in zip(axes, every, strict=False):
        minutes = np.cumsum(clock(line, rate)) / 60
        ax.plot([minutes[i - 1] for i in steps], losses, **style)
        ax.set_title(f'{count} hosts, {rate}')
      sent = [line['bytes_sent'][i - 1] / 1e6 for i in steps]
      axes[-1].plot(sent, losses, **style)
    axes[-1].set_title(f'{count} hosts')
    axes[-1].set_xscale('log')
    axes[-1].xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[-1].xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,g}'))
    axes[-1].xaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_ylabel('held-out loss, nats per byte')
    for ax in axes:
      ax.grid(alpha=0.3, which='both')
  for ax in grid[-1][:-1]:
    ax.set_xlabel('minutes of training')
  grid[-1][-1].set_xlabel('MB sent per worker (payload)')
  grid[0][0].legend()
  figure.suptitle(words)
  figure.savefig(path, dpi=110)
  plt.close(figure)
