"""Tables and figure of `benchmarks.time_to_loss`."""

from collections.abc import Callable
from collections.abc import Iterator
import itertools
import math
import pathlib
from typing import Any

import matplotlib
import numpy as np

from benchmarks import hosts as hosts_lib

matplotlib.use('Agg')
from matplotlib import ticker
import matplotlib.pyplot as plt

Line = dict[str, Any]
_COLORS = ('#1f77b4', '#d62728', '#2ca02c', '#9467bd')
_Clock = Callable[[Line, str], list[float]]
# Seconds of computing in a step, where they are taken to be the same for all.
_COMPUTING = 0.5
# Of a frame of 1,514 bytes on an Ethernet card, 1,448 are inside of TCP.
_FRAMES = 1514 / 1448


def write(folder: pathlib.Path, lines: list[Line]) -> None:
  """Writes table.md and two figures of the runs that are finished."""
  runs = [line for line in lines if not line['full']]
  if not runs:
    return
  texts = [
    '# Time to a loss',
    '',
    'Written by `python -m benchmarks.time_to_loss`; what it means is in'
    ' EXPERIMENTS.md.',
    '',
    *_loss_tables(
      runs, typical, 'Steps count as the median of their kind at that rate.'
    ),
    *_loss_tables(
      runs,
      quiet,
      'Steps count as the fastest tenth of their kind at that rate, nearer'
      ' to what a machine without other work would do.',
    ),
    *_loss_tables(
      runs,
      predicted,
      f'Predicted: {_COMPUTING:g} s of computing in every step of every'
      ' method, and then its bytes, with the ring and the headers, at that'
      ' rate.',
    ),
    *_step_table(runs),
    '',
    *_check_table(runs, [line for line in lines if line['full']]),
  ]
  (folder / 'table.md').write_text('\n'.join(texts), encoding='utf-8')
  draw(folder / 'time_to_loss.png', runs, typical, 'measured, medians of steps')
  words = f'predicted, with {_COMPUTING:g} s of computing in every step'
  draw(folder / 'predicted.png', runs, predicted, words)


def step_seconds(line: Line) -> dict[tuple[str, str], list[float]]:
  """(rate, phase) -> seconds of those steps, the first step left out."""
  found: dict[tuple[str, str], list[float]] = {}
  columns = zip(line['rates'], line['phases'], line['seconds'], strict=True)
  for rate, phase, seconds in itertools.islice(columns, 1, None):
    found.setdefault((rate, phase), []).append(seconds)
  return found


def typical(line: Line, rate: str) -> list[float]:
  """Seconds of each step, had all been at one rate: medians of their kind."""
  return _by_kind(line, rate, 0.5)


def quiet(line: Line, rate: str) -> list[float]:
  """The same by the fastest tenth of each kind."""
  return _by_kind(line, rate, 0.1)


def _by_kind(line: Line, rate: str, quantile: float) -> list[float]:
  timed = step_seconds(line)
  each = {
    phase: float(np.quantile(timed[rate, phase], quantile))
    for phase in set(line['phases'])
  }
  return [each[phase] for phase in line['phases']]


def predicted(line: Line, rate: str) -> list[float]:
  """Seconds of each step by its bytes, with the same computing for all."""
  ring = 2 * (line['hosts'] - 1) / line['hosts']
  per_byte = 8 * ring * _FRAMES / hosts_lib.bits_per_second(rate)
  sent = itertools.pairwise([0, *line['bytes_sent']])
  return [_COMPUTING + per_byte * (b - a) for a, b in sent]


def seconds_to(line: Line, rate: str, target: float, clock: _Clock) -> float:
  """When the held-out loss reaches a target; infinite if it does not.

  Between two evaluations the loss is taken to fall evenly.
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


def _loss_tables(runs: list[Line], clock: _Clock, words: str) -> Iterator[str]:
  """What was learnt and sent, and how long that takes at each rate."""
  for count, group in _by_hosts(runs).items():
    ends = [line['evaluations'][-1][1] for line in group]
    both = [end_of_both(line, group) for line in group]
    yield (
      f'{count} hosts. Seconds of training, A: to a held-out loss of'
      f' {max(ends):.3f}, which all reach; B: to the last one that both this'
      ' method and dense reach. In brackets: times faster than dense comes to'
      ' the same loss.'
      f' {words}'
    )
    yield ''
    every = rates(runs)
    header = ['method', 'held-out nats', 'MB sent', '', *every]
    yield f'| {" | ".join(header)} |'
    yield '|---' * len(header) + '|'
    for line, end, shared in zip(group, ends, both, strict=True):
      sent = f'{line["bytes_sent"][-1] / 1e6:,.0f}'
      first = [line['method'], f'{end:.4f}', sent]
      for name, target in (('A', max(ends)), ('B', shared)):
        cells = _times(line, group, every, target, clock)
        yield f'| {" | ".join([*first, name, *cells])} |'
        first = ['', '', '']
    yield ''


def end_of_both(line: Line, group: list[Line]) -> float:
  """The lowest held-out loss that both this run and dense come to."""
  ends = [x['evaluations'][-1][1] for x in group if x is line or _is_dense(x)]
  return max(ends)


def _is_dense(line: Line) -> bool:
  return line['method'] == 'dense'


def _times(line, group, every, target, clock) -> Iterator[str]:
  """Seconds to a loss at each rate, and how many times faster than dense."""
  dense = next(filter(_is_dense, group), line)
  for rate in every:
    seconds = seconds_to(line, rate, target, clock)
    text = f'{seconds:,.0f}'
    if line is not dense:
      others = seconds_to(dense, rate, target, clock)
      text += f' ({others / seconds:.2f})'
    yield text


def _step_table(runs: list[Line]) -> Iterator[str]:
  """Seconds of a step, by its kind and the rate."""
  yield (
    'Seconds of a step: median (fastest tenth, slowest tenth) of so many'
    ' steps. MB: what the step sends, without the ring.'
  )
  yield ''
  every = rates(runs)
  header = ['hosts', 'method', 'step', 'MB', *every]
  yield f'| {" | ".join(header)} |'
  yield '|---' * len(header) + '|'
  for line in itertools.chain(*_by_hosts(runs).values()):
    sent = [0, *line['bytes_sent']]
    timed = step_seconds(line)
    for phase in dict.fromkeys(line['phases']):
      i = line['phases'].index(phase)
      cells = [_spread(timed.get((rate, phase), [])) for rate in every]
      size = f'{(sent[i + 1] - sent[i]) / 1e6:.2f}'
      what = [str(line['hosts']), line['method'], phase, size]
      yield f'| {" | ".join([*what, *cells])} |'


def _spread(seconds: list[float]) -> str:
  if not seconds:
    return ''
  low, middle, high = np.quantile(seconds, [0.1, 0.5, 0.9])
  return f'{middle:.2f} ({low:.2f}, {high:.2f}) of {len(seconds)}'


def _check_table(runs: list[Line], full: list[Line]) -> Iterator[str]:
  """Whole runs at one rate against the sums."""
  if not full:
    return
  yield (
    'Whole runs at one rate, against the sums of medians above (the first'
    ' step left out of both):'
  )
  yield ''
  yield '| hosts | method | rate | measured, s | sum, s | losses differ by |'
  yield '|---|---|---|---|---|---|'
  for line, other in itertools.product(full, runs):
    if all(line[key] == other[key] for key in ('hosts', 'method')):
      steps = typical(other, line['full'])
      pairs = zip(line['losses'], other['losses'], strict=True)
      yield (
        f'| {line["hosts"]} | {line["method"]} | {line["full"]} |'
        f' {sum(line["seconds"][1:]):.0f} | {sum(steps[1:]):.0f} |'
        f' {max(abs(a - b) for a, b in pairs):.1e} |'
      )
  yield ''


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
  methods = sorted({line['method'] for line in runs} - {'dense'})
  colors = dict(zip(methods, _COLORS, strict=False)) | {'dense': 'black'}
  for axes, (count, group) in zip(grid, groups.items(), strict=True):
    for line in group:
      style: dict[str, Any] = {
        'color': colors[line['method']],
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
