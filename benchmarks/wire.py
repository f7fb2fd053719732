"""Bytes on the wire: network cards against the plan and metrics.jsonl.

`python -m benchmarks.wire` trains the quickstart's model for a few steps with
the real trainer, a process on each of 2 and 4 hosts (`benchmarks.hosts`), reads
every host's network card between the steps (`benchmarks.counted`), and holds
what it sent against what was promised: the payload times 2 (N - 1) / N, as in a
ring all-reduce each of N workers sends. It writes benchmarks/WIRE.md, where a
kind of step that is off by more than 5 % is marked.

Needs root, iproute2 and about six minutes on two cores.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import itertools
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from benchmarks import hosts as hosts_lib
from benchmarks import machine
from benchmarks import trainers
from train import tasks
from train.config import command_line
from train.config import exit_codes
from train.run import metrics
from train.study import budget

CONFIG = 'configs/quickstart.py'
TOLERANCE = 0.05
METHODS: dict[str, dict[str, Any]] = {
  'dense': {'method': 'dense'},
  'GreedyLore, r = 8': {'method': 'greedylore', 'rank': 8},
  'PowerSGD, int8, r = 32': {
    'method': 'powersgd',
    'rank': 32,
    'factor_dtype': 'int8',
  },
  'PowerSGD, int8, r = 8': {
    'method': 'powersgd',
    'rank': 8,
    'factor_dtype': 'int8',
  },
}
# Warm-up steps 0 to 3, refreshes at 4 and 9 (for who has them). Nothing is
# evaluated or saved before the end.
RUN: dict[str, Any] = {
  'steps': 14,
  'batch_size': 4,
  'data.sequence_length': 64,
  'compression.start_step': 4,
  'compression.update_interval': 5,
  'evaluation.every': 0,
  'evaluation.sequences': 4,
  'checkpoint.every': 0,
  'log.every': 1,
  'log.tensorboard': False,
}
_PATIENCE = 600.0


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the steps of one kind sent in one run.

  Attributes:
    hosts: how many, N.
    method: its name in `METHODS`.
    phase: the kind of step.
    planned: bytes per step by `gl.plan`.
    told: bytes per step by metrics.jsonl; the loss and diagnostics count.
    collectives: that such a step has, that of the loss with them.
    sent: what the card counted, for each step and host.
  """

  hosts: int
  method: str
  phase: str
  planned: int
  told: float
  collectives: int
  sent: list[hosts_lib.Sent]

  @property
  def promised(self) -> float:
    """Bytes that a ring has each host send, by metrics.jsonl."""
    return 2 * (self.hosts - 1) / self.hosts * self.told

  @property
  def beyond(self) -> float:
    """By which share the card's count exceeds that, in the median."""
    return statistics.median(x.bytes for x in self.sent) / self.promised - 1

  @property
  def beyond_without_headers(self) -> float:
    """The same of the bytes inside of TCP."""
    counted = statistics.median(x.without_headers for x in self.sent)
    return counted / self.promised - 1


@dataclasses.dataclass(frozen=True)
class Run:
  """What one run sent, bytes per host (means over the hosts).

  Attributes:
    hosts: how many.
    method: its name in `METHODS`.
    before: until the first step began.
    steps: during the steps.
    after: from the last step on: an evaluation and a checkpoint.
    told: by summary.json, of the steps and the checkpoint.
    kinds: the kinds of step.
  """

  hosts: int
  method: str
  before: float
  steps: float
  after: float
  told: int
  kinds: list[Kind]


def main(argv: list[str]) -> int:
  """Measures, prints and writes; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--hosts', default='2,4', help='numbers of hosts')
  parser.add_argument('--rate', default='1gbit', help="of a link, tc's words")
  parser.add_argument('--output', default='benchmarks/WIRE.md')
  parser.add_argument(
    '--fsdp', type=int, default=1, help='devices per host, and per worker'
  )
  given = parser.parse_args(argv)
  rows = RUN['batch_size'] * given.fsdp
  several = {
    'mesh__fsdp': given.fsdp,
    'batch_size': rows,
    'evaluation__sequences': rows,
  }
  runs = []
  try:
    for count in map(int, given.hosts.split(',')):
      for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
          path = pathlib.Path(folder)
          runs.append(measure(count, method, path, given.rate, **several))
        print(*_kind_rows(runs[-1:]), sep='\n', flush=True)
  except (hosts_lib.Unavailable, trainers.Failed) as error:
    return exit_codes.fail(error, 1)
  module = f'benchmarks.wire --hosts {given.hosts} --rate {given.rate}'
  if given.fsdp > 1:
    module += f' --fsdp {given.fsdp}'
  text = report(runs, given.rate, module)
  pathlib.Path(given.output).write_text(text, encoding='utf-8')
  return 0


def measure(
  count: int, method: str, workdir: pathlib.Path, rate: str, **changes: Any
) -> Run:
  """Trains on `count` hosts and counts.

  Args:
    count: of hosts.
    method: a key of `METHODS`.
    workdir: an empty folder.
    rate: of each link.
    **changes: of `RUN`, 'data__source' for 'data.source'.
  """
  options = RUN | {k.replace('__', '.'): v for k, v in changes.items()}
  options |= {f'compression.{k}': v for k, v in METHODS[method].items()}
  with hosts_lib.Hosts(count, rate) as hosts:
    processes = trainers.start(hosts, workdir, CONFIG, options, counted=True)
    trainers.wait(processes, workdir, _PATIENCE)
    whole = [hosts.sent_bytes(i) for i in range(count)]
  cards = [_readings(workdir / f'card-{i}.jsonl') for i in range(count)]
  first = statistics.fmean(card[0].bytes for card in cards)
  last = statistics.fmean(card[-1].bytes for card in cards)
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  return Run(
    count,
    method,
    first,
    last - first,
    statistics.fmean(whole) - last,
    summary['bytes_sent'] + summary['checkpoint_bytes'],
    [*_kinds(count, method, options, workdir, cards)],
  )


def _kinds(count, method, options, workdir, cards) -> Iterator[Kind]:
  """The steps of a run, by their phase."""
  words = [word for k, v in options.items() for word in (f'--{k}', str(v))]
  replica = ['--mesh.replica', str(count)]
  settings, _ = command_line.parse([CONFIG, *words, *replica], '')
  plan = budget.plan(settings, tasks.load(settings))
  lines = [x for x in metrics.read(workdir / 'metrics.jsonl') if 'loss' in x]
  told = [0, *(x['bytes_sent'] for x in lines)]
  for phase in plan.rounds:
    steps = [i for i in range(len(lines)) if plan.phase_at(i) == phase]
    if steps:
      yield Kind(
        count,
        method,
        phase,
        plan.bytes_in(phase),
        statistics.fmean(told[i + 1] - told[i] for i in steps),
        len(plan.rounds[phase]) + 1,
        [_between(card[i], card[i + 1]) for card in cards for i in steps],
      )


def _readings(path: pathlib.Path) -> list[hosts_lib.Sent]:
  """The card before the first step and after each."""
  lines = path.read_text(encoding='utf-8').splitlines()
  found = [json.loads(line) for line in lines]
  assert [x.pop('step') for x in found] == [*range(len(found))]
  return [hosts_lib.Sent(**x) for x in found]


def _between(a: hosts_lib.Sent, b: hosts_lib.Sent) -> hosts_lib.Sent:
  return hosts_lib.Sent(b.bytes - a.bytes, b.packets - a.packets)


def report(runs: list[Run], rate: str, module: str) -> str:
  """benchmarks/WIRE.md."""
  kinds = list(itertools.chain(*(run.kinds for run in runs)))
  far = [x for x in kinds if abs(x.beyond) > TOLERANCE]
  return '\n'.join(
    [
      '# Bytes on the wire',
      '',
      f'`python -m {module}`, {machine.describe()}. Links of {rate}, a trainer'
      ' on each host. Cards: medians over steps and hosts, with the least and'
      ' the greatest. "Ring" is 2 (N - 1) / N times what metrics.jsonl counts.'
      ' Written by the program; what the differences are is in'
      ' EXPERIMENTS.md.',
      '',
      f'{len(kinds) - len(far)} of {len(kinds)} kinds of step are within'
      f' {TOLERANCE:.0%} of the ring; the others are marked (!).',
      '',
      *_kind_head(),
      *_kind_rows(runs),
      '',
      'Whole runs, kB per host: before the first step (joining, checks,'
      ' compiling), in the steps, after them (the evaluation and, where errors'
      ' are averaged for it, the checkpoint). "Told" is what summary.json has'
      ' for steps and checkpoint, times the ring.',
      '',
      '| hosts | method | before | steps | after | told | steps and after over'
      ' told |',
      '|---|---|---|---|---|---|---|',
      *map(_run_row, runs),
      '',
    ]
  )


def _kind_head() -> list[str]:
  return [
    '| hosts | method | step | collectives | plan, kB | metrics.jsonl, kB |'
    ' ring, kB | card, kB | beyond the ring | without headers |',
    '|---|---|---|---|---|---|---|---|---|---|',
  ]


def _kind_rows(runs: list[Run]) -> Iterator[str]:
  for x in itertools.chain(*(run.kinds for run in runs)):
    counted = sorted(sent.bytes / 1e3 for sent in x.sent)
    median = statistics.median(counted)
    mark = '' if abs(x.beyond) <= TOLERANCE else ' (!)'
    yield (
      f'| {x.hosts} | {x.method} | {x.phase} | {x.collectives} |'
      f' {x.planned / 1e3:,.2f} | {x.told / 1e3:,.2f} |'
      f' {x.promised / 1e3:,.2f} |'
      f' {median:,.2f} ({counted[0]:,.2f} to {counted[-1]:,.2f}) |'
      f' {median - x.promised / 1e3:.2f} kB, {x.beyond:+.2%}{mark} |'
      f' {x.beyond_without_headers:+.2%} |'
    )


def _run_row(x: Run) -> str:
  told = 2 * (x.hosts - 1) / x.hosts * x.told
  return (
    f'| {x.hosts} | {x.method} | {x.before / 1e3:,.1f} |'
    f' {x.steps / 1e3:,.1f} | {x.after / 1e3:,.1f} | {told / 1e3:,.1f} |'
    f' {(x.steps + x.after) / told - 1:+.2%} |'
  )


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
