"""The measurements as a table and a figure: RESULTS.md and RESULTS.png."""

from collections.abc import Iterator
import os
import pathlib
import re
import statistics
from typing import Any, NamedTuple

from matplotlib import figure

from benchmarks import machine
from benchmarks.averaging import expected, shapes
from benchmarks.network import hosts as hosts_lib
from train.run import json_files
from train.study import tables

INTERVAL = 200  # Steps from one refresh to the next.
_NAMES = {
  ('theirs', 'dense'): 'PyTorch DDP, dense',
  ('theirs', 'powersgd_hook'): 'PyTorch DDP, powerSGD_hook, r = 32',
  ('ours', 'dense'): 'dense',
  ('ours', 'greedylore'): 'GreedyLore, r = 32, 4 probes',
  ('ours', 'greedylore_independent'): 'GreedyLore, r = 32, independent',
  ('ours', 'range_finder'): 'RangeFinder, r = 20',
  ('ours', 'powersgd'): 'PowerSGD, r = 20',
  ('ours', 'powersgd_int8'): 'PowerSGD, r = 20, 8 bits',
  ('ours', 'powersgd_int4'): 'PowerSGD, r = 20, 4 bits',
}
_PEERS = (
  ('theirs', 'dense', 'compress'),
  ('theirs', 'powersgd_hook', 'compress'),
)
_COLUMNS = (
  '',
  'MB',
  'seconds',
  'with refreshes',
  'predicted',
  'the wire alone',
  'PyTorch dense is',
  'powerSGD_hook is',
)


class Place(NamedTuple):
  """Where methods are compared."""

  model: str
  hosts: int
  rate: str

  @property
  def bits(self) -> float:
    """Of a link, per second."""
    return 1e12 if self.rate == 'none' else hosts_lib.bits_per_second(self.rate)

  @property
  def order(self) -> tuple[Any, ...]:
    """In the report."""
    return list(shapes.LLAMAS).index(self.model), self.hosts, -self.bits

  def __str__(self) -> str:
    size = f'LLaMA-{self.model} ({shapes.size(self.model) / 1e6:.1f}M numbers)'
    if self.hosts == 1:
      return f'{size}, every worker on its own'
    link = re.sub(r'([gm])bit', lambda x: f' {x[1].upper()}bit/s', self.rate)
    link = 'no limit' if self.rate == 'none' else link
    return f'{size}, {self.hosts} hosts, {link}'


class Cell:
  """All steps of one kind, of one method at one place."""

  def __init__(self, turns: list[dict[str, Any]]):
    self.seconds = sorted(x for turn in turns for x in turn['seconds'])
    self.median = statistics.median(self.seconds)
    self.sent = statistics.median(turn['sent'] for turn in turns)
    self.commits = {turn['commit'] for turn in turns}

  def __str__(self) -> str:
    last = len(self.seconds) - 1
    low, high = (self.seconds[round(share * last)] for share in (0.1, 0.9))
    return f'{self.median:.3f} ({low:.3f} to {high:.3f})'


# (side, method, kind) -> the steps, by place.
_Cells = dict[Place, dict[tuple[str, str, str], Cell]]


def write(results: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes RESULTS.md and RESULTS.png."""
  turns: dict[Any, list[dict[str, Any]]] = {}
  for x in json_files.read_lines(results):
    place = Place(x['model'], x['hosts'], x['rate'])
    key = x['side'], x['method'], x['kind']
    turns.setdefault((place, key), []).append(x)
  cells: _Cells = {}
  for place, key in sorted(turns, key=lambda x: x[0].order):
    cells.setdefault(place, {})[key] = Cell(turns[place, key])
  text = [
    '# How long averaging takes\n',
    f'`python -m benchmarks.averaging`, {machine.describe()}.'
    ' Gradients are given; only their averaging is timed: medians of the steps'
    ' of the slowest worker, with the fastest and slowest tenth. One core per'
    ' worker on 2 hosts, half a core on 4. MB are what a network card counts'
    f' in a step. "With refreshes": one of {INTERVAL} steps refreshes.'
    ' "Predicted": by `gl.predict`, from the dense step of one worker alone'
    ' and the compressed step on links without limit. Written by the'
    ' program.',
    *(line for place in cells for line in _section(cells, place)),
    '\n![seconds](RESULTS.png)\n',
  ]
  (folder / 'RESULTS.md').write_text('\n'.join(text), encoding='utf-8')
  _draw(cells, folder / 'RESULTS.png')


def _section(cells: _Cells, place: Place) -> Iterator[str]:
  found = cells[place]
  commits = set().union(*(x.commits for x in found.values()))
  steps = max(len(x.seconds) for x in found.values())
  yield (
    f'\n## {place}\n\n'
    f'Measured at {", ".join(sorted(commits))}, {steps} steps a method.\n'
  )
  yield tables.table(_COLUMNS, _rows(cells, place))
  if turn := found.get(('ours', 'greedylore_staggered', 'turn')):
    yield (
      '- Worst step with `stagger=True`, when the largest matrix is refreshed:'
      f' {turn} s, {turn.sent / 1e6:.1f} MB.'
    )
  if refresh := found.get(('ours', 'greedylore', 'refresh')):
    steps_between = (INTERVAL - 1) * found[
      'ours', 'greedylore', 'compress'
    ].median
    yield (
      f'- A refresh of GreedyLore: {refresh} s, {refresh.sent / 1e6:.1f} MB,'
      f' {refresh.median / (refresh.median + steps_between):.1%} of the time.'
    )


def _rows(cells: _Cells, place: Place) -> Iterator[list[str]]:
  found = cells[place]
  for (side, method), name in _NAMES.items():
    if not (cell := found.get((side, method, 'compress'))):
      continue
    mean, refresh = cell.median, found.get((side, method, 'refresh'))
    if refresh:
      mean += (refresh.median - cell.median) / INTERVAL
    wire = f'{8 * cell.sent / place.bits:.3f}' if place.rate != 'none' else ''
    yield [
      name,
      f'{cell.sent / 1e6:.2f}',
      str(cell),
      f'{mean:.3f}' if refresh else '',
      _predicted(cells, place, method, mean) if side == 'ours' else '',
      wire,
      *(f'{found[x].median / mean:.2f}x' if x in found else '' for x in _PEERS),
    ]


def _predicted(cells: _Cells, place: Place, method: str, mean: float) -> str:
  """By `gl.predict`, if each worker has its own core.

  The computation is that of one dense worker, and the overhead is what
  compressed steps take in addition on links without limit, which includes
  handling messages.
  """
  kinds = ('refresh', 'compress') if method == 'greedylore' else ('compress',)
  fast = cells.get(place._replace(rate='none'), {})
  alone = {x: fast[key] for x in kinds if (key := ('ours', method, x)) in fast}
  single = cells.get(Place(place.model, 1, 'none'), {})
  dense = single.get(('ours', 'dense', 'compress'))
  if place.rate == 'none' or not dense or len(alone) < len(kinds):
    return ''
  if place.hosts > len(os.sched_getaffinity(0)) or 'independent' in method:
    return ''
  seconds = expected.seconds(
    place.model,
    place.hosts,
    place.bits,
    method,
    dense_alone=dense.median,
    fast={kind: cell.median for kind, cell in alone.items()},
  )
  return f'{seconds:.3f} ({seconds / mean - 1:+.0%})'


def _draw(cells: _Cells, path: pathlib.Path) -> None:
  """Bars of medians, one panel per place."""
  size = 9, 0.6 + 2.1 * len(cells)
  drawn = figure.Figure(figsize=size, layout='constrained')
  axes = drawn.subplots(len(cells), squeeze=False)[:, 0]
  for ax, (place, found) in zip(axes, cells.items(), strict=True):
    rows = [
      (name, 'C1' if side == 'theirs' else 'C0', cell.median)
      for (side, method), name in reversed(_NAMES.items())
      if (cell := found.get((side, method, 'compress')))
    ]
    names, colors, medians = zip(*rows, strict=True)
    bars = ax.barh(names, medians, color=colors)
    ax.bar_label(bars, fmt='%.2f s', padding=3)
    ax.set_title(str(place), fontsize=10)
    ax.margins(x=0.12)
    ax.spines[['top', 'right']].set_visible(False)
  axes[-1].set_xlabel('seconds a step, refreshes left out')
  drawn.savefig(path, dpi=120)
