"""Time to a loss: what compression is worth on links of some bandwidths.

`python -m benchmarks.time_to_loss` trains configs/studies/time_to_loss.py with
the real trainer, a process per host (`benchmarks.hosts`), once for each number
of hosts and each method. The loss after a step does not depend on the link, so
one run serves all bandwidths: while it trains, the links' rate is changed every
few steps, and each step is timed at the rate that it had. The time to a loss at
one rate is then the sum of its steps' times there, where a step counts as the
median of its kind (warm-up, refresh, compressed) at that rate. The first step,
evaluations and start-up are not timed.

`--full 200mbit` runs at that one rate from beginning to end instead, to be held
against such sums.

Finished runs are lines of experiments/time_to_loss/results.jsonl; the same
command goes on with those that are missing, and then writes table.md and two
figures there. Needs root and iproute2, and about ten minutes a run on two busy
cores.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import sys
import time
from typing import Any

from benchmarks import hosts as hosts_lib
from benchmarks import machine
from benchmarks import time_to_loss_report
from benchmarks import trainers
from train import tasks
from train.config import command_line
from train.config import exit_codes
from train.run import metrics
from train.study import budget

CONFIG = 'configs/studies/time_to_loss.py'
METHODS: dict[str, dict[str, Any]] = {
  'dense': {'method': 'dense'},
  'GreedyLore, r = 32': {'method': 'greedylore', 'rank': 32},
  'PowerSGD, int8, r = 32': {
    'method': 'powersgd',
    'rank': 32,
    'factor_dtype': 'int8',
  },
  'GreedyLore, r = 8': {'method': 'greedylore', 'rank': 8},
}
# Steps at each rate, over and over. With a refresh every 45 steps from step 20
# on, all rates get their share of refreshes.
CYCLE = (('50mbit', 4), ('200mbit', 4), ('1gbit', 12))
_PATIENCE = 3600.0


def main(argv: list[str]) -> int:
  """Runs what is missing, then reports; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--hosts', default='2,4', help='numbers of hosts')
  parser.add_argument(
    '--methods',
    default=','.join(map(str, range(len(METHODS)))),
    help='; '.join(f'{i}: {name}' for i, name in enumerate(METHODS)),
  )
  parser.add_argument('--full', help='one rate for whole runs')
  parser.add_argument('--folder', default='experiments/time_to_loss')
  parser.add_argument('--report', action='store_true', help='only report')
  given = parser.parse_args(argv)
  folder = pathlib.Path(given.folder)
  results = folder / 'results.jsonl'
  names = [[*METHODS][int(i)] for i in given.methods.split(',')]
  wanted = [(int(n), name) for n in given.hosts.split(',') for name in names]
  try:
    for count, name in wanted if not given.report else []:
      key = {'hosts': count, 'method': name, 'full': given.full}
      if any(key.items() <= line.items() for line in metrics.read(results)):
        continue
      line = key | measure(count, name, given.full, folder)
      with results.open('a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')
      print(json.dumps(key), 'done', flush=True)
  except (hosts_lib.Unavailable, trainers.Failed) as error:
    return exit_codes.fail(error, 1)
  time_to_loss_report.write(folder, metrics.read(results))
  return 0


def measure(
  count: int, method: str, full: str | None, folder: pathlib.Path
) -> dict[str, Any]:
  """One run: its losses, and the seconds and rate of each of its steps."""
  compression = {f'compression.{k}': v for k, v in METHODS[method].items()}
  workdir = folder / 'run'
  shutil.rmtree(workdir, ignore_errors=True)
  started = time.monotonic()
  with hosts_lib.Hosts(count, full or CYCLE[0][0]) as hosts:
    processes = trainers.start(hosts, workdir, CONFIG, compression)
    journal = _Follower(workdir / 'metrics.jsonl')
    rate = full or CYCLE[0][0]
    while trainers.running(processes, workdir):
      if not full and (wanted := rate_at(journal.steps())) != rate:
        hosts.limit(rate := wanted)
      time.sleep(0.01)
      if time.monotonic() > started + _PATIENCE:
        raise trainers.Failed(f'{workdir} took more than {_PATIENCE:g} s')
  lines = metrics.read(workdir / 'metrics.jsonl')
  shutil.rmtree(workdir)
  steps = [x for x in lines if 'loss' in x]
  ends = [0.0, *(x['seconds'] for x in steps)]
  words = [word for k, v in compression.items() for word in (f'--{k}', str(v))]
  replica = ['--mesh.replica', str(count)]
  settings, _ = command_line.parse([CONFIG, *words, *replica], '')
  plan = budget.plan(settings, tasks.load(settings))
  return {
    'commit': machine.commit(),
    'date': time.strftime('%F'),
    'machine': machine.cores(),
    'wall_seconds': round(time.monotonic() - started),
    'dense_bytes': plan.dense_bytes,
    'bytes_sent': [x['bytes_sent'] for x in steps],
    'phases': [plan.phase_at(i) for i in range(len(steps))],
    'rates': [full or rate_at(i) for i in range(len(steps))],
    'seconds': [round(b - a, 4) for a, b in itertools.pairwise(ends)],
    'losses': [round(x['loss'], 5) for x in steps],
    'evaluations': [
      [x['step'], round(x['eval_loss'], 5)] for x in lines if 'eval_loss' in x
    ],
  }


def rate_at(step: int) -> str:
  """The rate of the links in a step, counted from 0."""
  step %= sum(count for _, count in CYCLE)
  for rate, count in CYCLE:
    if step < count:
      return rate
    step -= count
  raise AssertionError


class _Follower:
  """How many steps a growing metrics.jsonl tells of."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._read = self._steps = 0

  def steps(self) -> int:
    """Steps that are done."""
    if self._path.exists():
      with self._path.open('rb') as file:
        file.seek(self._read)
        whole = file.read().rpartition(b'\n')[0]
      self._read += len(whole)
      self._steps += whole.count(b'"loss":')
    return self._steps


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
