"""Rows of a study: cells at their best rates, in groups that compare."""

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any, NamedTuple

from train.config import command_line
from train.config.schema import Config
from train.study import budget

_METHODS = {
  'powersgd': 'PowerSGD',
  'greedylore': 'GreedyLore',
  'top_k': 'TopK',
  'threshold_top_k': 'ThresholdTopK',
  'count_sketch': 'CountSketch',
  'sketched_amsgrad': 'SketchedAMSGrad',
  'frugal': 'FRUGAL',
  'past_sketches': 'PastSketches',
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
      f'{name(self.optimizer)} inside, {self.workers} workers,'
      f' {self.sequences} sequence{"s" * (self.sequences > 1)} each'
    )


@dataclasses.dataclass(frozen=True)
class Row:
  """A cell at its best learning rate."""

  config: Config
  times_fewer: float | None
  rate: float
  losses: dict[int, float]
  """By seed; infinity if a run diverged."""
  of_rates: dict[float, float]
  """By rate, those of the first seed."""

  @property
  def at_end(self) -> bool:
    """Whether no higher, or no lower rate was tried."""
    rates = self.of_rates
    return len(rates) > 1 and self.rate in (min(rates), max(rates))

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
    if not self.dense:
      return math.nan
    mean, of_dense = _common_means(losses, self.dense.losses)
    return 100 * (mean / of_dense - 1)

  def kept(self, losses: Mapping[int, float]) -> float:
    """Per cent of what the workers gain over one alone, over common seeds."""
    if not self.dense or not self.alone:
      return math.nan
    mean, of_dense, of_alone = _common_means(
      losses, self.dense.losses, self.alone.losses
    )
    return 100 * (of_alone - mean) / (of_alone - of_dense)


def _common_means(*losses: Mapping[int, float]) -> list[float]:
  """The means over the seeds that all have; NaN if there is none."""
  common = set.intersection(*map(set, losses))
  if not common:
    return [math.nan] * len(losses)
  return [statistics.fmean(x[seed] for seed in common) for x in losses]


def read(folder: pathlib.Path) -> list[Group]:
  """The groups of a study, whose results are in FOLDER/results*.jsonl."""
  found = []
  for file in sorted(folder.glob('results*.jsonl')):
    found += map(json.loads, file.read_text(encoding='utf-8').splitlines())
  return grouped(rows_of(found))


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
        losses={seed: _loss(x) for seed, x in seeds.items()},
        of_rates={rate: first(rate) for rate in sorted(rates)},
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


def name(optimizer: str) -> str:
  """As people write it."""
  names = {
    'adamw': 'AdamW',
    'muon': 'Muon',
    'sgd': 'SGD',
    'sign_sgd': 'SignSGD',
  }
  return names.get(optimizer, optimizer)
