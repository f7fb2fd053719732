"""`python -m experiments.simulated.report FOLDER`: a table and a figure.

Reads FOLDER/results*.jsonl and writes table.md and compare.png next to them.
Every row is a cell at its best learning rate by the first seed, of those rates
that have the most seeds.
"""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import json
import math
import pathlib
import re
import statistics
import sys
from typing import Any, NamedTuple

import matplotlib

from train.config import command_line
from train.config.schema import Config, Local
from train.study import budget, tables

matplotlib.use('Agg')
from matplotlib import lines as lines_lib
import matplotlib.pyplot as plt

_COLUMNS = (
  'times fewer bytes',
  'what is sent',
  'when',
  'rate',
  'held-out nats',
  'seeds',
  'over dense',
  'gain kept',
)
_MARKERS = 'os^DvP*X<>dph1234'
_METHODS = {
  'powersgd': 'PowerSGD',
  'greedylore': 'GreedyLore',
  'top_k': 'TopK',
  'threshold_top_k': 'ThresholdTopK',
  'count_sketch': 'CountSketch',
  'sketched_amsgrad': 'SketchedAMSGrad',
  'frugal': 'FRUGAL',
  'range_finder': 'RangeFinder',
  'tsr': 'TSR',
  'tsr_adam': 'TSR-Adam',
  'lordo': 'LoRDO',
  'sign': 'signs',
}
_KNOBS = {'rank': 'r ='}


class Setting(NamedTuple):
  """What rows have in common that compare.

  Attributes:
    optimizer: the inner one.
    workers: how many.
    sequences: of a worker in a step.
    length: tokens of a sequence.
    steps: of a run.
  """

  optimizer: str
  workers: int
  sequences: int
  length: int
  steps: int

  def __str__(self) -> str:
    return (
      f'{_name(self.optimizer)} inside, {self.workers} workers,'
      f' {self.sequences} sequence{"s" * (self.sequences > 1)} each'
    )


@dataclasses.dataclass(frozen=True)
class Row:
  """A cell at its best learning rate."""

  config: Config
  times_fewer: float | None
  rate: float
  at_end: bool
  """Whether no higher, or no lower rate was tried."""
  losses: dict[int, float]
  """By seed; infinity if a run diverged."""

  @property
  def setting(self) -> Setting:
    """What it is compared within."""
    config, workers = self.config, self.config.mesh.replica
    return Setting(
      config.optimizer.name,
      workers,
      config.batch_size // workers,
      config.data.sequence_length,
      config.steps,
    )

  @property
  def loss(self) -> float:
    """The mean over the seeds."""
    return statistics.fmean(self.losses.values())


@dataclasses.dataclass(frozen=True)
class Group:
  """Rows that compare, by falling bytes, with their controls."""

  setting: Setting
  rows: list[Row]
  dense: Row | None
  alone: Row | None

  def over_dense(self, losses: Mapping[int, float]) -> float:
    """Per cent above dense averaging in every step, over their common seeds."""
    dense = self.dense.losses if self.dense else {}
    common = losses.keys() & dense.keys()
    if not common:
      return math.nan
    mean = lambda of: statistics.fmean(of[seed] for seed in common)
    return 100 * (mean(losses) / mean(dense) - 1)

  def kept(self, losses: Mapping[int, float]) -> float:
    """Per cent of what the workers gain over one alone, over common seeds."""
    if not self.dense or not self.alone:
      return math.nan
    common = losses.keys() & self.dense.losses.keys() & self.alone.losses.keys()
    if not common:
      return math.nan
    mean = lambda of: statistics.fmean(of[seed] for seed in common)
    gain = mean(self.alone.losses) - mean(self.dense.losses)
    return 100 * (mean(self.alone.losses) - mean(losses)) / gain


def main(folder: str) -> None:
  """Writes the table and the figure."""
  path = pathlib.Path(folder)
  found = []
  for file in sorted(path.glob('results*.jsonl')):
    found += map(json.loads, file.read_text(encoding='utf-8').splitlines())
  groups = grouped(rows_of(found))
  (path / 'table.md').write_text(table(groups), encoding='utf-8')
  draw(path / 'compare.png', groups)


def rows_of(results: Iterable[dict[str, Any]]) -> list[Row]:
  """A row for each cell that has results."""
  cells: dict[Any, dict[float, dict[int, dict[str, Any]]]] = {}
  for x in results:
    if 'error' not in x:
      rates = cells.setdefault((x['config'], x['overrides']), {})
      rates.setdefault(x['rate'], {})[x['seed']] = x
  rows = []
  for (path, overrides), rates in cells.items():
    first = lambda rate, rates=rates: _loss(min(rates[rate].items())[1])
    most = max(map(len, rates.values()))
    best = min((x for x in rates if len(rates[x]) == most), key=first)
    config, _ = command_line.parse([path, *overrides.split()], 'report')
    seeds = dict(sorted(rates[best].items()))
    rows.append(
      Row(
        config=config,
        times_fewer=next(iter(seeds.values()))['times_fewer'],
        rate=best,
        at_end=len(rates) > 1 and best in (min(rates), max(rates)),
        losses={seed: _loss(x) for seed, x in seeds.items()},
      )
    )
  return rows


def _loss(result: dict[str, Any]) -> float:
  return math.inf if result['loss'] is None else result['loss']


def grouped(rows: Iterable[Row]) -> list[Group]:
  """Rows by what they are compared within."""
  members = collections.defaultdict(list)
  alone = {}
  for row in rows:
    if row.setting.workers == 1:
      alone[row.setting] = row
    else:
      members[row.setting].append(row)
  groups = []
  for setting, of_group in sorted(members.items(), key=lambda x: x[0][1:]):
    of_group.sort(key=lambda row: row.times_fewer)
    is_dense = lambda row: row.times_fewer == 1
    dense = next(filter(is_dense, of_group), None)
    control = alone.get(setting._replace(workers=1))
    groups.append(Group(setting, of_group, dense, control))
  return groups


def table(groups: Iterable[Group]) -> str:
  """All groups in Markdown."""
  parts = []
  for group in groups:
    setting = group.setting
    rows = ([group.alone] if group.alone else []) + group.rows
    parts += [
      f'## {setting}, {setting.steps:,} steps of {setting.length} tokens',
      '',
      tables.table(_COLUMNS, [_cells(group, row) for row in rows]),
    ]
  return '\n'.join(parts)


def _cells(group: Group, row: Row) -> list[str]:
  half = (max(row.losses.values()) - min(row.losses.values())) / 2
  several = len(row.losses) > 1 and math.isfinite(half)
  is_alone = row.times_fewer is None
  return [
    '' if is_alone else _three_digits(row.times_fewer),
    'one worker alone' if is_alone else what(row.config),
    '' if is_alone else when(row.config),
    f'{row.rate:g}' + (' (end of the grid)' if row.at_end else ''),
    _digits(row.loss, '.4f') + (f' ± {half:.4f}' if several else ''),
    str(len(row.losses)),
    _digits(group.over_dense(row.losses), '+.1f', ' %'),
    _digits(group.kept(row.losses), '.0f', ' %'),
  ]


def _three_digits(x: float) -> str:
  return f'{x:.3g}' if x < 999.5 else f'{x:,.0f}'


def _digits(x: float, form: str, unit: str = '') -> str:
  if math.isnan(x):
    return ''
  return f'{x:{form}}{unit}' if math.isfinite(x) else 'diverged'


def what(config: Config) -> str:
  """What is sent, in words."""
  sent = config.compression
  match sent.method:
    case 'dense':
      return 'dense'
    case 'quantize':
      words = [f'every entry in {sent.bits} bits']
    case 'chunk_top_k':
      unit = f'bits{" of a DCT" * bool(sent.transform)}'
      words = [f'ChunkTopK, {sent.keep} of a block in {sent.bits} {unit}']
    case method:
      knob = 'rank' if method == 'lordo' else budget.knob(method)
      words = [_METHODS.get(method, method)]
      if knob:
        words[0] += f' {_KNOBS.get(knob, knob)} {getattr(sent, knob):g}'
      if sent.payload_method != 'dense':
        words.append(f'sent by {sent.payload_method}')
  if sent.factor_dtype:
    words[0] += f' {sent.factor_dtype}'
  if sent.method == 'greedylore':
    refresh = 'dense refresh'
    if sent.basis_size:
      refresh = f'basis of {sent.basis_size} renewed'
    words.append(f'{refresh} every {sent.update_interval}')
  if not sent.embeddings:
    words.append('embeddings dense')
  if sent.start_step:
    unit = 'rounds' if config.local.is_on else 'steps'
    words.append(f'{sent.start_step} dense {unit} first')
  if sent.error_decay != 1:
    words.append(f'error decay {sent.error_decay:g}')
  return ', '.join(words)


def when(config: Config) -> str:
  """When it is sent, in words."""
  local = config.local
  if not local.is_on:
    return 'every step'
  words = [f'H = {local.every}']
  if local.qsr_alpha is not None:
    words = [f'QSR {local.qsr_alpha:g}, H at least {local.every}']
  if local.outer_momentum:
    kind = 'Nesterov' if local.outer_nesterov else 'momentum'
    words.append(
      f'{kind} {local.outer_learning_rate:g} / {local.outer_momentum:g}'
    )
  else:
    words.append(f'SGD {local.outer_learning_rate:g}')
  if local.start_step:
    words.append(f'{local.start_step} rounds of one step first')
  said = {'every', 'qsr_alpha', 'start_step'}
  for field in dataclasses.fields(local):
    value = getattr(local, field.name)
    is_said = field.name in said or field.name.startswith('outer_')
    if not is_said and value != field.default:
      words.append(f'{field.name.replace("_", " ")} {value}')
  return ', '.join(words)


def _name(optimizer: str) -> str:
  names = {'adamw': 'AdamW', 'muon': 'Muon', 'sign_sgd': 'SignSGD'}
  return names.get(optimizer, optimizer)


def draw(path: pathlib.Path, groups: list[Group]) -> None:
  """Held-out loss against bytes: a row of panels for workers and sequences.

  Groups without a dense run have nothing to be compared with.
  """
  groups = [group for group in groups if group.dense]
  if not groups:
    return
  names = sorted({group.setting.optimizer for group in groups})
  shapes = sorted({group.setting[1:] for group in groups})
  figure, axes = plt.subplots(
    len(shapes),
    len(names),
    figsize=(6.5 * len(names), 4.6 * len(shapes) + 1),
    squeeze=False,
    layout='constrained',
  )
  every = [_every(row) for group in groups for row in group.rows]
  colors = {
    x: matplotlib.colormaps['viridis'](i / max(1, len({*every}) - 1))
    for i, x in enumerate(sorted({*every}))
  }
  rows = [row for group in groups for row in group.rows]
  label = _sent
  if len({*map(_sent, rows)}) > len(_MARKERS):
    label = _method
  sent = dict.fromkeys(map(label, rows))
  markers = dict(zip(sent, _MARKERS, strict=False))
  marker_of = lambda row: markers[label(row)]
  for ax in axes.flat:
    ax.set_axis_off()  # Where there is no group.
  for group in groups:
    name, *shape = group.setting
    ax = axes[shapes.index(tuple(shape))][names.index(name)]
    ax.set_axis_on()
    _draw_group(ax, group, colors, marker_of)
  handle = lambda label, **style: lines_lib.Line2D(
    [], [], ls='', label=label, **style
  )
  figure.legend(
    handles=[
      *(handle(x, marker=m, color='gray') for x, m in markers.items()),
      *(
        handle('QSR' if x == 0 else f'H = {x}', marker='s', color=color)
        for x, color in colors.items()
      ),
    ],
    loc='outside lower center',
    ncols=2 * len(names),
    frameon=False,
  )
  figure.savefig(path, dpi=120, bbox_inches='tight')
  plt.close(figure)


def _draw_group(ax: Any, group: Group, colors: Any, marker_of: Any) -> None:
  finite = [x for x in group.rows if math.isfinite(group.over_dense(x.losses))]
  for row in finite:
    each = (group.over_dense({seed: x}) for seed, x in row.losses.items())
    percent = [*filter(math.isfinite, each)]
    mean = group.over_dense(row.losses)
    ax.errorbar(
      row.times_fewer,
      mean,
      yerr=[[mean - min(percent)], [max(percent) - mean]],
      marker=marker_of(row),
      color=colors[_every(row)],
      ms=7,
      mfc='none' if _has_momentum(row.config.local) else None,
      ls='',
    )
  ax.axhline(0, color='black', ls='--', lw=1)
  ax.set_xscale('log')
  tops = [group.over_dense(row.losses) for row in finite]
  level = group.over_dense(group.alone.losses) if group.alone else math.nan
  if math.isfinite(level):
    ax.axhline(level, color='crimson', ls='--', lw=1)
    ax.annotate(
      'one worker alone',
      (0.02, level),
      xycoords=('axes fraction', 'data'),
      va='bottom',
      color='crimson',
    )
    tops = [x for x in tops if x < 1.3 * level] + [level]
  if tops and all(map(math.isfinite, tops)):
    ax.set_ylim(min(0, *tops) - 1, 1.1 * max(tops) + 1)
  ax.set_title(str(group.setting))
  ax.set_xlabel('times fewer bytes (open: with outer momentum)')
  ax.set_ylabel('held-out loss over dense, %')
  ax.grid(alpha=0.3, which='both')


def _has_momentum(local: Local) -> bool:
  return local.is_on and local.outer_momentum > 0


def _every(row: Row) -> int:
  """The length of rounds; 0 for a rule."""
  local = row.config.local
  return 0 if local.qsr_alpha is not None else local.every


def _sent(row: Row) -> str:
  return what(row.config).partition(', error decay')[0]


def _method(row: Row) -> str:
  """What is sent without its settings."""
  return re.split(r',| r =| density| in \d| int\d', what(row.config))[0]


if __name__ == '__main__':
  main(*sys.argv[1:])
