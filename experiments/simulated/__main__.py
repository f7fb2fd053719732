"""`python -m experiments.simulated MODULE --out FOLDER [--processes K] ...`.

Runs the cells of a study, in the order of MODULE.CELLS, on the one device that
JAX finds. Every cell is a configuration of the trainer at some learning rates
and seeds: one program (`experiments.simulated.program`). Its lines are in
FOLDER/results.jsonl as soon as it is done, and the same command later runs what
is missing. Keys of the configuration at the end change all cells:

    python -m experiments.simulated experiments.local_updates.cells \
        --out runs/local_updates --processes 4 --limit_s 400 --seeds 1
"""

import argparse
import importlib
import math
import multiprocessing
import os
import pathlib
import sys
import time
from typing import Any

from experiments.simulated import worker
from train.config import exit_codes
from train.study import commit


def main() -> int:
  """Starts the processes and waits for them; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('module', help='whose CELLS to run')
  add('--out', type=pathlib.Path, required=True)
  add('--processes', type=int, default=1, help='that share the device')
  add('--limit_s', type=float, default=math.inf, help='no new cells after it')
  add('--seeds', type=int, default=99, help='at most, of each cell')
  add('--first', type=int, help='cells, the others are left out')
  add('--text', type=pathlib.Path, help='made by experiments.simulated.text')
  add('--precision', default='highest', help='of matrix products')
  add('--commit', default=commit.current(), help='of the code')
  given, overrides = parser.parse_known_args()
  begin = time.time()
  cells = importlib.import_module(given.module).CELLS[: given.first]
  try:
    for cell in cells:
      worker.config_of(cell, overrides)
  except exit_codes.UsageError as error:
    return exit_codes.fail(error)
  given.out.mkdir(parents=True, exist_ok=True)
  if given.processes > 1:
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  context = multiprocessing.get_context('spawn')
  todo: Any = context.Queue()
  for cell in cells:
    todo.put(cell)
  arguments = todo, vars(given), overrides, begin
  start = lambda: context.Process(target=worker.work, args=arguments)
  workers = [start() for _ in range(given.processes)]
  for process in workers:
    process.start()
  spare = 2 * given.processes
  while workers:
    process = workers.pop(0)
    process.join()
    if process.exitcode and spare:  # A crash takes its cell with it.
      spare -= 1
      workers.append(start())
      workers[-1].start()
  print(f'{time.time() - begin:.0f} s: done', flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(main())
