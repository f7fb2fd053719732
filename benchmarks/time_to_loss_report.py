"""Tables and figure of `benchmarks.time_to_loss`."""

from collections.abc import Iterator
import itertools
import math
import pathlib
import statistics
from typing import Any

import matplotlib

from benchmarks import hosts as hosts_lib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

Line = dict[str, Any]
_COLORS = ('#1f77b4', '#d62728', '#2ca02c', '#9467bd')


def write(folder: pathlib.Path, lines: list[Line]) -> None:
  """Writes table.md and time_to_loss.png of the runs that are finished."""
  runs = [line for line in lines if not line['full']]
  if not runs:
    return
  texts = [
      '# Time to a loss', '',
      'Written by `python -m benchmarks.time_to_loss`; what it means is in'
      ' EXPERIMENTS.md.', '',
      *_loss_table(runs), '', *_step_table(runs), '',
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


def seconds_after(line: Line, rate: str) -> list[float]:
  """Seconds after 0, 1, 2, ... steps, had all of them been at one rate."""
  timed = step_seconds(line)
  each = [statistics.median(timed[rate, phase]) for phase in line['phases']]
  return [*itertools.accumulate(each, initial=0.0)]


def seconds_to(line: Line, rate: str, target: float) -> float:
  """When the held-out loss reaches a target; infinite if it does not.

  Between two evaluations the loss is taken to fall evenly.
  """
  clock = seconds_after(line, rate)
  evaluations = line['evaluations']
  for (a, before), (b, after) in itertools.pairwise(evaluations):
    if after <= target:
      share = max(0.0, (before - target) / (before - after))
      return clock[a] + share * (clock[b] - clock[a])
  return math.inf


def rates(runs: list[Line]) -> list[str]:
  """All rates, the slowest first."""
  found = {rate for line in runs for rate in line['rates']}
  return sorted(found, key=hosts_lib.bits_per_second)


def _by_hosts(runs: list[Line]) -> dict[int, list[Line]]:
  counts = sorted({line['hosts'] for line in runs})
  return {n: [x for x in runs if x['hosts'] == n] for n in counts}


def targets(runs: list[Line]) -> tuple[float, float]:
  """A loss that every method reaches, and one 2 % above that of dense."""
  ends = {line['method']: line['evaluations'][-1][1] for line in runs}
  return max(ends.values()), 1.02 * ends.get('dense', min(ends.values()))


def _loss_table(runs: list[Line]) -> Iterator[str]:
  """What was learnt, sent, and how long that takes at each rate."""
  every = rates(runs)
  times = [f'{rate}, s' for rate in every]
  for count, group in _by_hosts(runs).items():
    near = targets(group)
    yield (
        f'{count} hosts. A: seconds of training to a held-out loss of'
        f' {near[0]:.3f}, which all reach; B: to {near[1]:.3f}, within 2 % of'
        ' what dense ends with. In brackets: times faster than dense.'
    )
    yield ''
    yield f'| method | held-out nats | MB sent | | {" | ".join(times)} |'
    yield '|---' * (4 + len(every)) + '|'
    dense = [line for line in group if line['method'] == 'dense']
    for line in group:
      for name, target in zip('AB', near, strict=True):
        cells = []
        for rate in every:
          seconds = seconds_to(line, rate, target)
          text = f'{seconds:,.0f}' if math.isfinite(seconds) else 'not reached'
          if math.isfinite(seconds) and line not in dense and dense:
            times_faster = seconds_to(dense[0], rate, target) / seconds
            text += f' ({times_faster:.2f})'
          cells.append(text)
        what = ['', '', '']
        if name == 'A':
          loss, sent = line['evaluations'][-1][1], line['bytes_sent'][-1] / 1e6
          what = [line['method'], f'{loss:.4f}', f'{sent:,.0f}']
        yield f'| {" | ".join([*what, name, *cells])} |'
    yield ''


def _step_table(runs: list[Line]) -> Iterator[str]:
  """Seconds of a step, by its kind and the rate."""
  every = rates(runs)
  yield (
      'Seconds of a step: median (lower to upper quartile) of so many steps.'
  )
  yield ''
  yield f'| hosts | method | step | MB | {" | ".join(every)} |'
  yield '|---' * (4 + len(every)) + '|'
  for line in itertools.chain(*_by_hosts(runs).values()):
    sent = [0, *line['bytes_sent']]
    timed = step_seconds(line)
    for phase in dict.fromkeys(line['phases']):
      i = line['phases'].index(phase)
      cells = [_spread(timed.get((rate, phase), [])) for rate in every]
      yield (
          f'| {line["hosts"]} | {line["method"]} | {phase} |'
          f' {(sent[i + 1] - sent[i]) / 1e6:.2f} | {" | ".join(cells)} |'
      )


def _spread(seconds: list[float]) -> str:
  if not seconds:
    return ''
  if len(seconds) < 4:
    return f'{statistics.median(seconds):.2f} of {len(seconds)}'
  low, middle, high = statistics.quantiles(seconds, n=4)
  return f'{middle:.2f} ({low:.2f} to {high:.2f}) of {len(seconds)}'


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
  for line in full:
    same = [
        x for x in runs
        if (x['hosts'], x['method']) == (line['hosts'], line['method'])
    ]  # fmt: skip
    for other in same:
      clock = seconds_after(other, line['full'])
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
      style = {'color': colors[line['method']], 'marker': 'o', 'ms': 3}
      steps, losses = zip(*line['evaluations'], strict=True)
      for ax, rate in zip(axes, every, strict=False):
        clock = seconds_after(line, rate)
        ax.plot(
            [clock[i] / 60 for i in steps], losses, label=line['method'],
            **style,
        )  # fmt: skip
        ax.set_title(f'{count} hosts, {rate}')
      sent = [line['bytes_sent'][i - 1] / 1e6 for i in steps]
      axes[-1].plot(sent, losses, label=line['method'], **style)
    axes[-1].set_title(f'{count} hosts')
    axes[-1].set_xscale('log')
    axes[0].set_ylabel('held-out loss, nats per byte')
    for ax in axes:
      ax.grid(alpha=0.3, which='both')
  for ax in grid[-1][:-1]:
    ax.set_xlabel('minutes of training')
  grid[-1][-1].set_xlabel('MB per worker (payload)')
  grid[0][0].legend()
  figure.savefig(path, dpi=110)
  plt.close(figure)
