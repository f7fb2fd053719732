"""Table and figure of `benchmarks.network.links`."""

import collections
from collections.abc import Iterator
import pathlib
import statistics
from typing import Any, NamedTuple

from matplotlib import figure, ticker

from benchmarks.network import hosts as hosts_lib
from train.study import tables

Line = dict[str, Any]
NAMES = {
  'dense': 'dense, every step',
  'powersgd': 'PowerSGD int8, every step',
  'dense-30': 'dense, every 30 steps',
  'powersgd-30': 'PowerSGD int8, every 30 steps',
  'powersgd_int4-30': 'PowerSGD int4, every 30 steps',
  'quantize2-30': 'every entry in 2 bits, every 30 steps',
  'late_powersgd_int4-30': 'PowerSGD int4, every 30 steps, delay 20',
  'late_quantize2-30': 'every entry in 2 bits, every 30 steps, delay 20',
  'powersgd-100': 'PowerSGD int8, every 100 steps',
  'powersgd_int4-100': 'PowerSGD int4, every 100 steps',
  'quantize2-100': 'every entry in 2 bits, every 100 steps',
  'ddp': 'PyTorch DDP',
  'powersgd_hook': 'PyTorch powerSGD_hook',
  'post_local_sgd-30': 'PyTorch PostLocalSGDOptimizer, every 30 steps',
  'torchft_diloco-30': 'torchft DiLoCo, every 30 steps',
}
_THEIRS = 'ddp', 'powersgd_hook', 'post_local_sgd-30', 'torchft_diloco-30'
_STYLES = {
  'dense': ('C0', '-'),
  'powersgd': ('C2', '-'),
  'dense-30': ('C0', '--'),
  'powersgd-30': ('C2', '--'),
  'powersgd_int4-30': ('C4', '--'),
  'quantize2-30': ('C8', '--'),
  'late_powersgd_int4-30': ('C4', '-.'),
  'late_quantize2-30': ('C8', '-.'),
  'powersgd-100': ('C2', ':'),
  'powersgd_int4-100': ('C4', ':'),
  'quantize2-100': ('C8', ':'),
  'ddp': ('C1', '-'),
  'powersgd_hook': ('C3', '-'),
  'post_local_sgd-30': ('C1', '--'),
  'torchft_diloco-30': ('C5', '--'),
}


class Place(NamedTuple):
  """Hosts and their links."""

  hosts: int
  milliseconds: float
  rate: str

  @property
  def bits(self) -> float:
    """Of a link, per second."""
    return hosts_lib.bits_per_second(self.rate)

  @property
  def link(self) -> str:
    """'10 Mbit/s, 50 ms'."""
    number = self.rate.rstrip('bgikmt')
    unit = self.rate[len(number)].upper()
    return f'{number} {unit}bit/s, {self.milliseconds:g} ms'


class Result(NamedTuple):
  """A method on links of one kind, medians over the turns."""

  seconds: float
  """Per step."""
  share: float
  """Of the time spent computing."""
  is_predicted: bool


def of(lines: list[Line]) -> dict[str, dict[Place, Result]]:
  """All results by method; links without turns are predicted."""
  turns: dict[Any, Line] = {}
  for x in lines:
    place = Place(x['hosts'], x['milliseconds'], x['rate'])
    turns[x['method'], place, x['turn']] = x
  places = sorted({p for _, p, _ in turns}, key=lambda p: (p[:2], -p.bits))
  found: dict[str, dict[Place, Result]] = {}
  for method in NAMES:
    if not any(method == name for name, _, _ in turns):
      continue
    alone = 'torch_alone' if method in _THEIRS else 'alone'
    results: dict[Place, Result] = {}
    for place in places:
      taken = [
        (x['seconds'], computing(x, turns.get((alone, place, turn))))
        for (name, where, turn), x in turns.items()
        if (name, where) == (method, place)
      ]
      if taken:
        medians = map(statistics.median, zip(*taken, strict=True))
        results[place] = Result(*medians, is_predicted=False)
    every = int(method.partition('-')[2] or 1)
    for place in places:
      if place not in results and every < 100:
        sent = [
          x['sent']
          for (name, where, _), x in turns.items()
          if name == method and where.hosts == place.hosts
        ]
        if guess := _predicted(results, place, sent):
          results[place] = guess
    found[method] = results
  return found


def computing(line: Line, alone: Line | None) -> float:
  """The share of the time, as `links` defines it."""
  in_rounds = line['steps'] > 1 and '-' in line['method']
  step = line['median'] if in_rounds or not alone else alone['seconds']
  return step / line['seconds']


def _predicted(
  results: dict[Place, Result], place: Place, sent: list[int]
) -> Result | None:
  """From a faster link of the same delay: its bytes take longer."""
  faster = [
    p
    for p, x in results.items()
    if p[:2] == place[:2] and p.bits > place.bits and not x.is_predicted
  ]
  if not faster:
    return None
  near = min(faster, key=lambda p: p.bits)
  seconds, share, _ = results[near]
  bits = 8 * statistics.median(sent)
  longer = seconds + bits / place.bits - bits / near.bits
  return Result(longer, share * seconds / longer, is_predicted=True)


def write(folder: pathlib.Path, lines: list[Line]) -> None:
  """Writes table.md and links.png."""
  if not lines:
    return
  results = of(lines)
  text = [
    '# Links\n',
    'Written by `python -m benchmarks.network.links`; README.md explains it.\n',
    *_tables(results, lines),
  ]
  (folder / 'table.md').write_text('\n'.join(text), encoding='utf-8')
  _draw(folder / 'links.png', results)


def _places(results: dict[str, dict[Place, Result]]) -> list[Place]:
  every = {place for cells in results.values() for place in cells}
  return sorted(every, key=lambda p: (p.hosts, -p.bits, p.milliseconds))


def _tables(
  results: dict[str, dict[Place, Result]], lines: list[Line]
) -> Iterator[str]:
  places = _places(results)
  for hosts in sorted({p.hosts for p in places}):
    here = [p for p in places if p.hosts == hosts]
    of_hosts = [x for x in lines if x['hosts'] == hosts]
    alone = {
      name: statistics.median(
        x['seconds'] for x in of_hosts if x['method'] == name
      )
      for name in ('alone', 'torch_alone')
      if any(x['method'] == name for x in of_hosts)
    }
    turns = max(
      collections.Counter(
        (x['method'], x['milliseconds'], x['rate']) for x in of_hosts
      ).values()
    )
    yield (
      f'{hosts} hosts, {_turns(turns)}. Seconds per step, and'
      ' in parentheses the share of the time spent computing. (p): predicted.'
      ' A step of one worker alone takes '
      + ' and '.join(
        f'{x:.3f} s{" in PyTorch" if name == "torch_alone" else ""}'
        for name, x in alone.items()
      )
      + '. MB: what a network card sends per step.\n'
    )
    rows = []
    for method, name in NAMES.items():
      cells = results.get(method, {})
      sent = [x['sent'] for x in of_hosts if x['method'] == method]
      if sent:
        size = f'{statistics.median(sent) / 1e6:.3g}'
        rows.append([name, size, *(_cell(cells.get(p)) for p in here)])
    titles = [p.link for p in here]
    yield tables.table(['', 'MB', *titles], rows)
    yield (
      'Seconds that the end of a round takes beyond its local steps, from which'
      ' the share for steps of any length follows.\n'
    )
    ends = [
      [name, *(_end_of_round(of_hosts, method, p) for p in here)]
      for method, name in NAMES.items()
      if '-' in method and method in results
    ]
    yield tables.table(['', *titles], [x for x in ends if any(x[1:])])


def _turns(most: int) -> str:
  return f'medians of up to {most} turns' if most > 1 else 'one turn'


def _end_of_round(lines: list[Line], method: str, place: Place) -> str:
  taken = [
    (x['seconds'] - x['median']) * x['steps']
    for x in lines
    if x['method'] == method
    and (x['milliseconds'], x['rate']) == (place.milliseconds, place.rate)
  ]
  return f'{statistics.median(taken):.2g}' if taken else ''


def _cell(result: Result | None) -> str:
  if not result:
    return ''
  mark = ' (p)' if result.is_predicted else ''
  return f'{result.seconds:.3g} ({result.share:.1%}){mark}'


def _draw(path: pathlib.Path, results: dict[str, dict[Place, Result]]) -> None:
  """The share of the time spent computing, a panel per hosts and delay."""
  panels = sorted({p[:2] for p in _places(results)})
  columns = max(1, len({delay for _, delay in panels}))
  rows = max(1, -(-len(panels) // columns))
  drawn = figure.Figure(figsize=(5.2 * columns, 3.4 * rows + 2))
  drawn.set_layout_engine('constrained')
  grid = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
  for ax, panel in zip(grid.flat, panels, strict=False):
    for method, cells in results.items():
      here = sorted(
        ((p.bits / 1e6, x) for p, x in cells.items() if p[:2] == panel),
        key=lambda pair: pair[0],
      )
      if not here:
        continue
      points = [(rate, 100 * x.share, x.is_predicted) for rate, x in here]
      draw_method(ax, method, points)
    ax.axhline(95, color='gray', lw=0.8)
    prepare(ax, *panel)
  for ax in grid[-1]:
    ax.set_xlabel('Mbit/s of a link')
  for ax in grid[:, 0]:
    ax.set_ylabel('% of the time spent computing')
  name_methods(drawn)
  drawn.savefig(path, dpi=120)


def prepare(ax: Any, hosts: int, milliseconds: float) -> None:
  """A panel over the rate of the links."""
  ax.set_xscale('log')
  ax.set_xticks([1, 10, 100, 1000])
  ax.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,g}'))
  ax.xaxis.set_minor_formatter(ticker.NullFormatter())
  ax.set_title(f'{hosts} hosts, {milliseconds:g} ms one way')
  ax.grid(alpha=0.3)


def name_methods(drawn: figure.Figure) -> None:
  """A legend of the methods in any panel."""
  lines = {x.get_label(): x for ax in drawn.axes for x in ax.get_lines()}
  named = [lines[x] for x in NAMES.values() if x in lines]
  drawn.legend(handles=named, loc='outside lower center', ncols=2)


def draw_method(
  ax: Any, method: str, points: list[tuple[float, float, bool]]
) -> None:
  """A line through (Mbit/s, value, whether it is predicted: open)."""
  color, style = _STYLES[method]
  rates, values, _ = zip(*points, strict=True)
  ax.plot(rates, values, style, color=color, label=NAMES[method])
  for rate, value, is_predicted in points:
    face = 'white' if is_predicted else color
    ax.plot(rate, value, 'o', ms=5, color=color, mfc=face)
