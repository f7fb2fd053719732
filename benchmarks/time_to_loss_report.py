"""Tables and figure of `benchmarks.time_to_loss`."""

from collections.abc import Iterator
import itertools
import math
import pathlib
from typing import Any

import matplotlib
import numpy as np

from benchmarks import hosts as hosts_lib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

Line = dict[str, Any]
_COLORS = ('#1f77b4', '#d62728', '#2ca02c', '#9467bd')
# As what the steps of a kind count: quantile -> words.
_TYPICAL, _QUIET = 0.5, 0.1
_WORDS = {
    _TYPICAL: 'Steps count as the median of their kind at that rate.',
    _QUIET: (
        'The same with the fastest tenth of each kind: nearer to what a machine'
        ' without other work would do.'
    ),
}


def write(folder: pathlib.Path, lines: list[Line]) -> None:
  """Writes table.md and time_to_loss.png of the runs that are finished."""
  runs = [line for line in lines if not line['full']]
  if not runs:
    return
  texts = [
      '# Time to a loss', '',
      'Written by `python -m benchmarks.time_to_loss`; what it means is in'
      ' EXPERIMENTS.md.', '',
      *_loss_tables(runs, _TYPICAL), *_loss_tables(runs, _QUIET),
      *_step_table(runs), '',
      *_check_table(runs, [line for line in lines if line['full']]),
  ]  # fmt: skip
  (folder / 'table.md').write_text('\n'.join(texts), encoding='utf-8')
  draw(folder / 'time_to_loss.png', runs)


def step_seconds(line: Line) -> dict[tuple[str, str], list[float]]:
  """(rate, phase) -> seconds of those steps, the first step left out."""
  found: dict[tuple[str, str], list[float]] = {}
  columns = zip(line['rates'], line['phases'], line['seconds'], strict=True)
  for rate, phase, seconds in itertools.islice(columns, 1, None):
    found.setdefault((rate, phase), []).append(seconds)
  return found


def seconds_after(line: Line, rate: str, quantile: float) -> list[float]:
  """Seconds after 0, 1, 2, ... steps, had all of them been at one rate."""
  timed = step_seconds(line)
  each = {
      phase: float(np.quantile(timed[rate, phase], quantile))
      for phase in set(line['phases'])
  }
  seconds = (each[phase] for phase in line['phases'])
  return [*itertools.accumulate(seconds, initial=0.0)]


def seconds_to(line: Line, rate: str, target: float, quantile: float) -> float:
  """When the held-out loss reaches a target; infinite if it does not.

  Between two evaluations the loss is taken to fall evenly.
  """
  clock = seconds_after(line, rate, quantile)
  for (a, before), (b, after) in itertools.pairwise(line['evaluations']):
    if after <= target:
      share = max(0.0, (before - target) / (before - after))
      return clock[a] + share * (clock[b] - clock[a])
  return math.inf


def rates(runs: list[Line]) -> list[str]:
  """All rates, the slowest first."""
  found = {rate for line in runs for rate in line['rates']}
  return sorted(found, key=hosts_lib.bits_per_second)


def targets(runs: list[Line]) -> tuple[float, float]:
  """A loss that every method reaches, and one 2 % above that of dense."""
  ends = {line['method']: line['evaluations'][-1][1] for line in runs}
  return max(ends.values()), 1.02 * ends.get('dense', min(ends.values()))


def _by_hosts(runs: list[Line]) -> dict[int, list[Line]]:
  counts = sorted({line['hosts'] for line in runs})
  return {n: [x for x in runs if x['hosts'] == n] for n in counts}


def _loss_tables(runs: list[Line], quantile: float) -> Iterator[str]:
  """What was learnt and sent, and how long that takes at each rate."""
  for count, group in _by_hosts(runs).items():
    near = targets(group)
    yield (
        f'{count} hosts. A: seconds of training to a held-out loss of'
        f' {near[0]:.3f}, which all reach; B: to {near[1]:.3f}, within 2 % of'
        ' what dense ends with. In brackets: times faster than dense.'
        f' {_WORDS[quantile]}'
    )
    yield ''
    every = rates(runs)
    header = ['method', 'held-out nats', 'MB sent', '', *every]
    yield f'| {" | ".join(header)} |'
    yield '|---' * len(header) + '|'
    for line in group:
      loss, sent = line['evaluations'][-1][1], line['bytes_sent'][-1] / 1e6
      first = [line['method'], f'{loss:.4f}', f'{sent:,.0f}']
      for name, target in zip('AB', near, strict=True):
        cells = _times(line, group, every, target, quantile)
        yield f'| {" | ".join([*first, name, *cells])} |'
        first = ['', '', '']
    yield ''


def _times(line, group, every, target, quantile) -> Iterator[str]:
  """Seconds to a loss at each rate, and how many times faster than dense."""
  dense = next((x for x in group if x['method'] == 'dense'), line)
  for rate in every:
    seconds = seconds_to(line, rate, target, quantile)
    if math.isinf(seconds):
      yield 'not reached'
    elif line is dense:
      yield f'{seconds:,.0f}'
    else:
      times_faster = seconds_to(dense, rate, target, quantile) / seconds
      yield f'{seconds:,.0f} ({times_faster:.2f})'


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
      clock = seconds_after(other, line['full'], _TYPICAL)
      pairs = zip(line['losses'], other['losses'], strict=True)
      yield (
          f'| {line["hosts"]} | {line["method"]} | {line["full"]} |'
          f' {sum(line["seconds"][1:]):.0f} | {clock[-1] - clock[1]:.0f} |'
          f' {max(abs(a - b) for a, b in pairs):.1e} |'
      )
  yield ''


def draw(path: pathlib.Path, runs: list[Line]) -> None:
  """Held-out loss against minutes, a panel per rate, and against bytes."""
  every = rates(runs)
  groups = _by_hosts(runs)
  figure, grid = plt.subplots(
      len(groups), len(every) + 1, sharey=True, squeeze=False,
      figsize=(4 * (len(every) + 1), 3.6 * len(groups)), layout='constrained',
  )  # fmt: skip
  methods = sorted({line['method'] for line in runs} - {'dense'})
  colors = dict(zip(methods, _COLORS, strict=False)) | {'dense': 'black'}
  for axes, (count, group) in zip(grid, groups.items(), strict=True):
    for line in group:
      style: dict[str, Any] = {
          'color': colors[line['method']], 'label': line['method'],
          'marker': 'o', 'ms': 3,
      }  # fmt: skip
      steps, losses = zip(*line['evaluations'], strict=True)
      for ax, rate in zip(axes, every, strict=False):
        clock = seconds_after(line, rate, _TYPICAL)
        ax.plot([clock[i] / 60 for i in steps], losses, **style)
        ax.set_title(f'{count} hosts, {rate}')
      sent = [line['bytes_sent'][i - 1] / 1e6 for i in steps]
      axes[-1].plot(sent, losses, **style)
    axes[-1].set_title(f'{count} hosts')
    axes[-1].set_xscale('log')
    axes[0].set_ylabel('held-out loss, nats per byte')
    for ax in axes:
      ax.grid(alpha=0.3, which='both')
  for ax in grid[-1][:-1]:
    ax.set_xlabel('minutes of training')
  grid[-1][-1].set_xlabel('MB sent per worker (payload)')
  grid[0][0].legend()
  figure.savefig(path, dpi=110)
  plt.close(figure)
