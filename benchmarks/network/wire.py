"""Bytes on the wire: network cards against the plan and metrics.jsonl.

`python -m benchmarks.network.wire` trains the quickstart's model for a few
steps with the real trainer, one process on each of 2 and 4 simulated hosts. It
reads every host's network card between the steps and compares what the card
sent with the expected bytes: in a ring all-reduce each of N workers sends 2 (N
- 1) / N times the payload. It writes WIRE.md next to this file and marks every
phase that differs by more than 5 %.

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

from benchmarks import machine
from benchmarks.network import hosts as hosts_lib
from benchmarks.network import trainers
from train.config import exit_codes
from train.run import metrics
from train.study import tables

CONFIG = 'configs/quickstart.py'
TOLERANCE = 0.05
METHODS = [x for x in trainers.METHODS if x != 'GreedyLore, r = 32']
# Warm-up steps 0 to 3, refreshes at 4 and 9 (for methods that have them).
# Nothing is evaluated or saved before the end.
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
_OUTPUT = pathlib.Path(__file__).with_name('WIRE.md')
_COLUMNS = (
  'hosts',
  'method',
  'step',
  'collectives',
  'plan, kB',
  'metrics.jsonl, kB',
  'ring, kB',
  'card, kB',
  'beyond the ring',
  'without headers',
)


@dataclasses.dataclass(frozen=True)
class Phase:
  """What the steps of one phase sent in one run.

  Attributes:
    hosts: number of hosts, N.
    method: key of `trainers.METHODS`.
    name: of the phase.
    planned: bytes per step by `gl.plan`.
    reported: bytes per step by metrics.jsonl, with the loss and diagnostics.
    collectives: per step, with the one of the loss.
    sent: what the card counted, for each step and host.
  """

  hosts: int
  method: str
  name: str
  planned: int
  reported: float
  collectives: int
  sent: list[hosts_lib.Sent]

  @property
  def ring(self) -> float:
    """Bytes that each host of a ring sends, by metrics.jsonl."""
    return 2 * (self.hosts - 1) / self.hosts * self.reported

  @property
  def excess(self) -> float:
    """By which share the median of the card's counts exceeds the ring."""
    return statistics.median(x.bytes for x in self.sent) / self.ring - 1

  def row(self) -> str:
    """The row of the table."""
    counted = sorted(x.bytes / 1e3 for x in self.sent)
    median = statistics.median(counted)
    inside = statistics.median(x.without_headers for x in self.sent)
    mark = ' (!)' if abs(self.excess) > TOLERANCE else ''
    return tables.row(
      self.hosts,
      self.method,
      self.name,
      self.collectives,
      f'{self.planned / 1e3:,.2f}',
      f'{self.reported / 1e3:,.2f}',
      f'{self.ring / 1e3:,.2f}',
      f'{median:,.2f} ({counted[0]:,.2f} to {counted[-1]:,.2f})',
      f'{median - self.ring / 1e3:.2f} kB, {self.excess:+.2%}{mark}',
      f'{inside / self.ring - 1:+.2%}',
    )


@dataclasses.dataclass(frozen=True)
class Run:
  """What one run sent, bytes per host (means over the hosts).

  Attributes:
    hosts: number of hosts.
    method: key of `trainers.METHODS`.
    before: until the first step.
    steps: during the steps.
    after: after the last step: an evaluation and a checkpoint.
    reported: by summary.json, of the steps and the checkpoint.
    phases: the phases.
  """

  hosts: int
  method: str
  before: float
  steps: float
  after: float
  reported: int
  phases: list[Phase]

  def row(self) -> list[str]:
    """The row of the table."""
    ring = 2 * (self.hosts - 1) / self.hosts * self.reported
    sizes = self.before, self.steps, self.after, ring
    excess = (self.steps + self.after) / ring - 1
    cells = [f'{x / 1e3:,.1f}' for x in sizes]
    return [str(self.hosts), self.method, *cells, f'{excess:+.2%}']


def main() -> int:
  """Measures, prints and writes; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--hosts', type=int, nargs='+', default=[2, 4], help='numbers of hosts')
  add('--rate', default='1gbit', help='of each link, as tc spells it')
  add('--fsdp', type=int, default=1, help='devices per host, and per worker')
  add('--output', type=pathlib.Path, default=_OUTPUT)
  given = parser.parse_args()
  rows = RUN['batch_size'] * given.fsdp
  changes = {
    'mesh.fsdp': given.fsdp,
    'batch_size': rows,
    'evaluation.sequences': rows,
  }
  runs = []
  try:
    for hosts, method in itertools.product(given.hosts, METHODS):
      with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        runs.append(measure(hosts, method, workdir, given.rate, changes))
      print(*(phase.row() for phase in runs[-1].phases), sep='\n', flush=True)
  except (hosts_lib.Unavailable, trainers.Failed) as error:
    return exit_codes.fail(error, 1)
  module = f'benchmarks.network.wire {" ".join(sys.argv[1:])}'.strip()
  given.output.write_text(report(runs, given.rate, module), encoding='utf-8')
  return 0


def measure(
  count: int,
  method: str,
  workdir: pathlib.Path,
  rate: str,
  changes: dict[str, Any],
) -> Run:
  """Trains on `count` hosts and counts.

  Args:
    count: number of hosts.
    method: key of `trainers.METHODS`.
    workdir: an empty folder.
    rate: of each link.
    changes: options that override `RUN`.
  """
  options = RUN | changes | trainers.options_of(method)
  with hosts_lib.Hosts(count, rate) as hosts:
    processes = trainers.start(hosts, workdir, CONFIG, options, counted=True)
    trainers.wait(processes, workdir, timeout=_PATIENCE)
    whole = [hosts.sent_bytes(i) for i in range(count)]
  cards = [_readings(workdir / f'card-{i}.jsonl') for i in range(count)]
  first = statistics.fmean(card[0].bytes for card in cards)
  last = statistics.fmean(card[-1].bytes for card in cards)
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  lines = [x for x in metrics.read(workdir / 'metrics.jsonl') if 'loss' in x]
  reported = [0, *(x['bytes_sent'] for x in lines)]
  plan = trainers.plan(CONFIG, options, count)
  phases = []
  for phase in plan.rounds:
    steps = [i for i in range(len(lines)) if plan.phase_at(i) == phase]
    if steps:
      found = Phase(
        hosts=count,
        method=method,
        name=phase,
        planned=plan.bytes_in(phase),
        reported=statistics.fmean(reported[i + 1] - reported[i] for i in steps),
        collectives=len(plan.rounds[phase]) + 1,
        sent=[_between(*card[i : i + 2]) for card in cards for i in steps],
      )
      phases.append(found)
  return Run(
    hosts=count,
    method=method,
    before=first,
    steps=last - first,
    after=statistics.fmean(whole) - last,
    reported=summary['bytes_sent'] + summary['checkpoint_bytes'],
    phases=phases,
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
  """The text of WIRE.md."""
  phases = [phase for run in runs for phase in run.phases]
  return '\n'.join([*_introduction(phases, rate, module), *_run_rows(runs)])


def _introduction(phases: list[Phase], rate: str, module: str) -> Iterator[str]:
  near = sum(abs(x.excess) <= TOLERANCE for x in phases)
  yield '# Bytes on the wire\n'
  yield (
    f'`python -m {module}`, {machine.describe()}. Links of {rate}, a trainer on'
    ' each host. Cards: medians over steps and hosts, with the least and the'
    ' greatest. "Ring" is 2 (N - 1) / N times the bytes in metrics.jsonl.'
    ' Written by the program; `experiments/wire/README.md` explains the'
    ' differences.\n'
  )
  yield (
    f'{near} of {len(phases)} phases are within {TOLERANCE:.0%} of the ring;'
    ' the others are marked (!).\n'
  )
  yield tables.head(*_COLUMNS)
  yield from (phase.row() for phase in phases)


def _run_rows(runs: list[Run]) -> Iterator[str]:
  yield (
    '\nWhole runs, kB per host: before the first step (joining, checks,'
    ' compiling), during the steps, and after them (the evaluation and, where'
    ' errors are averaged for it, the checkpoint). "Reported" is the bytes of'
    ' steps and checkpoint in summary.json, times the ring.\n'
  )
  yield tables.table(
    [
      'hosts',
      'method',
      'before',
      'steps',
      'after',
      'reported',
      'steps and after over reported',
    ],
    [run.row() for run in runs],
  )


if __name__ == '__main__':
  sys.exit(main())
