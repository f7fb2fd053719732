"""What was measured, as a table and a figure: RESULTS.md and RESULTS.png."""

from collections.abc import Iterator
import itertools
import json
import os
import pathlib
import re
import statistics
from typing import Any

from matplotlib import figure

from benchmarks import hosts as hosts_lib
from benchmarks import machine
from benchmarks.averaging import expected
from benchmarks.averaging import shapes

INTERVAL = 200  # Steps from one refresh to the next.
_NAMES = {
  ('theirs', 'dense'): 'PyTorch DDP, dense',
  ('theirs', 'powersgd_hook'): 'PyTorch DDP, powerSGD_hook, r = 32',
  ('ours', 'dense'): 'dense',
  ('ours', 'greedylore'): 'GreedyLore, r = 32, 4 probes',
  ('ours', 'greedylore_independent'): 'GreedyLore, r = 32, independent',
  ('ours', 'range_finder'): 'RangeFinder, r = 20',
  ('ours', 'powersgd'): 'PowerSGD, r = 20',
}
_REFRESHES = {
  'greedylore': 'all workers decompose all',
  'greedylore_shared': 'decompositions shared',
}


def read(results: pathlib.Path) -> list[dict[str, Any]]:
  """The turns that were taken."""
  if not results.exists():
    return []
  lines = results.read_text(encoding='utf-8').splitlines()
  return [json.loads(line) for line in lines]


class Cell:
  """All steps of one kind, of one method at one place."""

  def __init__(self, turns: list[dict[str, Any]]):
    self.seconds = sorted(x for turn in turns for x in turn['seconds'])
    self.median = statistics.median(self.seconds)
    self.sent = statistics.median(turn['sent'] for turn in turns)
    self.commits = {turn['commit'] for turn in turns}

  def __str__(self) -> str:
    low, high = (
      self.seconds[round(share * (len(self.seconds) - 1))]
      for share in (0.1, 0.9)
    )
    return f'{self.median:.3f} ({low:.3f} to {high:.3f})'


def _key(x: dict[str, Any]) -> tuple[Any, ...]:
  names = 'model', 'hosts', 'rate', 'side', 'method', 'kind'
  return tuple(x[name] for name in names)


def write(results: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes RESULTS.md and RESULTS.png."""
  turns = sorted(read(results), key=_key)
  cells = {key: Cell(list(x)) for key, x in itertools.groupby(turns, _key)}
  text = [
    '# How long averaging takes',
    '',
    f'`python -m benchmarks.averaging`, {machine.describe()}.'
    ' Gradients are given, nothing but their averaging is timed:'
    ' medians of steps of the slowest worker, tenths in brackets. A core per'
    ' worker on 2 hosts, half a one on 4. MB are what a network card counts'
    f' in a step. "With refreshes": one of {INTERVAL} steps refreshes.'
    ' "Predicted": by `gl.predict`, from what a dense step takes one worker'
    ' alone and a compressed one where links have no limit. Written by the'
    ' program.',
  ]
  places = sorted({key[:3] for key in cells}, key=_order)
  for place in places:
    text += ['', *_table(cells, place)]
  text += ['', '![seconds](RESULTS.png)', '']
  (folder / 'RESULTS.md').write_text('\n'.join(text), encoding='utf-8')
  _draw(cells, places, folder / 'RESULTS.png')


def _order(place: Any) -> tuple[Any, ...]:
  model, hosts, rate = place
  return list(shapes.LLAMAS).index(model), hosts, -_bits(rate)


def _bits(rate: str) -> float:
  return 1e12 if rate == 'none' else hosts_lib.bits_per_second(rate)


def _title(place: Any) -> str:
  model, hosts, rate = place
  numbers = shapes.size(model) / 1e6
  link = re.sub(r'([gm])bit', lambda x: f' {x[1].upper()}bit/s', rate)
  link = 'no limit' if rate == 'none' else link
  size = f'LLaMA-{model} ({numbers:.1f}M numbers)'
  if hosts == 1:
    return f'{size}, every worker on its own'
  return f'{size}, {hosts} hosts, {link}'


def _table(cells: Any, place: Any) -> Iterator[str]:
  found = {key[3:]: cell for key, cell in cells.items() if key[:3] == place}
  peers = [
    found.get(('theirs', x, 'compress')) for x in ('dense', 'powersgd_hook')
  ]
  yield f'## {_title(place)}'
  yield ''
  commits = set().union(*(x.commits for x in found.values()))
  steps = max(len(x.seconds) for x in found.values())
  yield f'Measured at {", ".join(sorted(commits))}, {steps} steps a method.'
  yield ''
  yield (
    '| | MB | seconds | with refreshes | predicted | the wire alone |'
    ' PyTorch dense is | powerSGD_hook is |'
  )
  yield '|---|---|---|---|---|---|---|---|'
  for (side, method), name in _NAMES.items():
    cell = found.get((side, method, 'compress'))
    if cell is None:
      continue
    refresh = found.get((side, method, 'refresh'))
    mean = cell.median
    if refresh:
      mean += (refresh.median - cell.median) / INTERVAL
    wire = 8 * cell.sent / _bits(place[2])
    foreseen = _predicted(cells, place, method, mean) if side == 'ours' else ''
    ratios = [f'{x.median / mean:.2f}x' if x else '' for x in peers]
    yield (
      f'| {name} | {cell.sent / 1e6:.2f} | {cell} |'
      f' {f"{mean:.3f}" if refresh else ""} |'
      f' {foreseen} |'
      f' {f"{wire:.3f}" if place[2] != "none" else ""} |'
      f' {" | ".join(ratios)} |'
    )
  yield ''
  turn = found.get(('ours', 'greedylore_staggered', 'turn'))
  if turn:
    yield (
      "- Its worst step with `stagger=True`, the largest matrix's turn:"
      f' {turn} s, {turn.sent / 1e6:.1f} MB.'
    )
  for method, how in _REFRESHES.items():
    refresh = found.get(('ours', method, 'refresh'))
    if refresh:
      cell = found['ours', 'greedylore', 'compress']
      share = refresh.median / (refresh.median + (INTERVAL - 1) * cell.median)
      yield (
        f'- A refresh of GreedyLore, {how}: {refresh} s,'
        f' {refresh.sent / 1e6:.1f} MB, {share:.1%} of the time.'
      )


def _predicted(cells: Any, place: Any, method: str, mean: float) -> str:
  """By `gl.predict`; each worker has to have a core.

  Computing is what one dense worker takes, the overhead what compressed steps
  take beyond that where links have no limit: handling messages is part of it.
  """
  model, hosts, rate = place
  kinds = ('refresh', 'compress') if method == 'greedylore' else ('compress',)
  fast = model, hosts, 'none', 'ours', method
  alone = {x: cells.get((*fast, x)) for x in kinds}
  dense = cells.get((model, 1, 'none', 'ours', 'dense', 'compress'))
  if rate == 'none' or not dense or not all(alone.values()):
    return ''
  if hosts > len(os.sched_getaffinity(0)) or 'independent' in method:
    return ''
  seconds = expected.seconds(
    (model, hosts, _bits(rate)),
    method,
    dense.median,
    {kind: cell.median for kind, cell in alone.items() if cell},
  )
  return f'{seconds:.3f} ({seconds / mean - 1:+.0%})'


def _draw(cells: Any, places: list[Any], path: pathlib.Path) -> None:
  """Bars of medians, a panel for each place."""
  size = 9, 0.6 + 2.1 * len(places)
  drawn = figure.Figure(figsize=size, layout='constrained')
  axes = drawn.subplots(len(places), squeeze=False)[:, 0]
  for ax, place in zip(axes, places, strict=True):
    rows = [
      (name, side, cells[*place, side, method, 'compress'])
      for (side, method), name in reversed(_NAMES.items())
      if (*place, side, method, 'compress') in cells
    ]
    colors = ['C1' if side == 'theirs' else 'C0' for _, side, _ in rows]
    bars = ax.barh(
      [name for name, *_ in rows], [c.median for *_, c in rows], color=colors
    )
    ax.bar_label(bars, fmt='%.2f s', padding=3)
    ax.set_title(_title(place), fontsize=10)
    ax.margins(x=0.12)
    ax.spines[['top', 'right']].set_visible(False)
  axes[-1].set_xlabel('seconds a step, refreshes left out')
  drawn.savefig(path, dpi=120)
