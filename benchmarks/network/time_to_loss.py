"""Time to a loss: what compression is worth on links of some bandwidths.

`python -m benchmarks.network.time_to_loss` trains
configs/studies/time_to_loss.py with the real trainer, one process per simulated
host, once for each number of hosts and each method. The loss after a step does
not depend on the link, so one run serves all bandwidths: the rate of the links
changes every few steps, and each step is timed at the rate it had. The time to
a loss at one rate is then the sum of its steps' times at that rate, where a
step counts as the median of its phase (warm-up, refresh, compressed). The first
step, evaluations and start-up are not timed.

Finished runs are lines of experiments/time_to_loss/results.jsonl. Rerun the
same command to run the missing ones; it then writes table.md and two figures
there. Needs root and iproute2, and about ten minutes a run on two busy cores.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import sys
import time
from typing import Any

from benchmarks import machine
from benchmarks.network import hosts as hosts_lib
from benchmarks.network import time_to_loss_report, trainers
from train.config import exit_codes
from train.run import json_files, metrics
from train.study import commit

CONFIG = 'configs/studies/time_to_loss.py'
METHODS = (
  'dense',
  'GreedyLore, r = 32',
  'GreedyLore, r = 8',
  'PowerSGD, int8, r = 32',
)  # Keys of `trainers.METHODS`.
# Number of steps at each rate, repeated. With a refresh every 45 steps from
# step 20 on, every rate gets its share of refreshes.
CYCLE = (('50mbit', 4), ('200mbit', 4), ('1gbit', 12))
_PATIENCE = 3600.0


def main() -> int:
  """Runs what is missing, then reports; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--hosts', type=int, nargs='+', default=[2, 4], help='numbers of hosts')
  add('--folder', type=pathlib.Path, default='experiments/time_to_loss')
  add('--report', action='store_true', help='report only, run nothing')
  given = parser.parse_args()
  results = given.folder / 'results.jsonl'
  lines = json_files.read_lines(results)
  try:
    for hosts, method in itertools.product(given.hosts, METHODS):
      key = {'hosts': hosts, 'method': method}
      if given.report or any(key.items() <= line.items() for line in lines):
        continue
      lines.append(key | measure(hosts, method, given.folder / 'run'))
      with results.open('a', encoding='utf-8') as file:
        file.write(json.dumps(lines[-1]) + '\n')
      print(json.dumps(key), 'done', flush=True)
  except (hosts_lib.Unavailable, trainers.Failed) as error:
    return exit_codes.fail(error, 1)
  time_to_loss_report.write(given.folder, lines)
  return 0


def measure(count: int, method: str, workdir: pathlib.Path) -> dict[str, Any]:
  """One run: its losses, and the seconds and rate of each of its steps."""
  options = trainers.options_of(method)
  shutil.rmtree(workdir, ignore_errors=True)
  started = time.monotonic()
  rate = rate_at(0)
  path = workdir / 'metrics.jsonl'

  def adjust_rate() -> None:
    nonlocal rate
    done = path.read_bytes().count(b'"loss":') if path.exists() else 0
    if (wanted := rate_at(done)) != rate:
      hosts.limit(rate := wanted)

  with hosts_lib.Hosts(count, rate) as hosts:
    processes = trainers.start(hosts, workdir, CONFIG, options)
    trainers.wait(processes, workdir, timeout=_PATIENCE, meanwhile=adjust_rate)
  lines = metrics.read(path)
  shutil.rmtree(workdir)
  steps = [x for x in lines if 'loss' in x]
  ends = [0.0, *(x['seconds'] for x in steps)]
  plan = trainers.plan(CONFIG, options, count)
  return {
    'commit': commit.current(),
    'date': time.strftime('%F'),
    'machine': machine.cores(),
    'wall_seconds': round(time.monotonic() - started),
    'dense_bytes': plan.dense_bytes,
    'bytes_sent': [x['bytes_sent'] for x in steps],
    'phases': [plan.phase_at(i) for i in range(len(steps))],
    'rates': [rate_at(i) for i in range(len(steps))],
    'seconds': [round(b - a, 4) for a, b in itertools.pairwise(ends)],
    'losses': [round(x['loss'], 5) for x in steps],
    'evaluations': [
      [x['step'], round(x['eval_loss'], 5)] for x in lines if 'eval_loss' in x
    ],
  }


def rate_at(step: int) -> str:
  """The rate of the links in a step, counted from 0."""
  cycle = [rate for rate, count in CYCLE for _ in range(count)]
  return cycle[step % len(cycle)]


if __name__ == '__main__':
  sys.exit(main())
