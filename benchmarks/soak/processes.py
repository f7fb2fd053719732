"""`python -m benchmarks.soak.processes`: 64 processes of a tiny model.

All of them run on this machine, train 50 steps and must end cleanly: exit code
0, every line of output from one process, and metrics, summary and checkpoints
written once.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from benchmarks import machine

CONFIG = 'configs/studies/soak.py'


def main() -> int:
  """Prints the results; 1 if something was lost or written twice."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--processes', type=int, default=64)
  parser.add_argument('--steps', type=int, default=50)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    work = pathlib.Path(folder) / 'work'
    begin = time.monotonic()
    done = subprocess.run(
      _command(options.processes, options.steps, work),
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'OPENBLAS_NUM_THREADS': '1'},
      capture_output=True,
      text=True,
      check=False,
    )
    minutes = (time.monotonic() - begin) / 60
    problems = [
      *_problems_of_output(done, options.processes),
      *(_problems_of_files(work, options.steps) if not done.returncode else ()),
    ]
  print(
    f'{options.processes} processes, {options.steps} steps, {minutes:.1f}'
    f' minutes: {"; ".join(problems) or "all ended with 0, everything once"}'
    f' ({machine.describe()}).'
  )
  if problems:
    print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
  return 1 if problems else 0


def _command(processes: int, steps: int, work: pathlib.Path) -> list[str]:
  """A worker per process; starting them all takes minutes on few cores."""
  return [
    *(sys.executable, '-m', 'train.launch', CONFIG),
    *('--num_processes', str(processes), '--mesh.replica', str(processes)),
    *('--batch_size', str(processes), '--steps', str(steps)),
    *('--log.every', '10', '--evaluation.every', '10'),
    *('--log.tensorboard', 'True'),
    *('--checkpoint.every', '25', '--workdir', str(work)),
    *('--distributed.start_timeout', '3600'),
    *('--distributed.heartbeat_timeout', '600'),
  ]


def _problems_of_output(
  done: subprocess.CompletedProcess[str], processes: int
) -> list[str]:
  """What is wrong with exit code and output."""
  found = []
  if done.returncode:
    found.append(f'exit code {done.returncode}')
  by_process = collections.Counter(
    line.partition(']')[0] for line in done.stdout.splitlines() if line
  )
  known = {f'[{i}' for i in range(processes)}
  if odd := {*by_process} - known:
    found.append(f'lines of no process: {sorted(odd)[:3]}')
  pattern = re.compile(r'^\[(\d+)\] step +(\d+) +held-out', re.MULTILINE)
  steps = pattern.findall(done.stdout)
  if {i for i, _ in steps} != {'0'} or len({*steps}) < len(steps):
    found.append(
      f'{len(steps)} lines of evaluations, by {sorted({*steps})[:3]} ...'
    )
  return found


def _problems_of_files(work: pathlib.Path, steps: int) -> list[str]:
  """What is missing in the work folder, or there twice."""
  found = []
  text = (work / 'metrics.jsonl').read_text(encoding='utf-8')
  lines = [json.loads(line) for line in text.splitlines()]
  logged = [x['step'] for x in lines if 'loss' in x]
  if logged != [*range(10, steps + 1, 10)]:
    found.append(f'metrics of steps {logged}')
  summary = json.loads((work / 'summary.json').read_text(encoding='utf-8'))
  if summary['steps'] != steps:
    found.append(f'a summary of {summary["steps"]} steps')
  saved = sorted(int(x.name) for x in (work / 'checkpoints').iterdir())
  if saved != [25, steps]:
    found.append(f'checkpoints of steps {saved}')
  events = [*(work / 'tensorboard').iterdir()]
  if len(events) != 1:
    found.append(f'{len(events)} files of TensorBoard')
  if (work / 'lock').exists():
    found.append('a lock that is still there')
  return found


if __name__ == '__main__':
  sys.exit(main())
