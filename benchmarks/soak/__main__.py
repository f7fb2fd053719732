"""`python -m benchmarks.soak`: what only very many steps show.

Trains configs/studies/soak.py on 4 processes of this machine and reads their
memory every second. At each checkpoint the trainer itself compares the
parameters of the processes, bit by bit, and fails if they differ.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import machine
from train.run import metrics

CONFIG = 'configs/studies/soak.py'
PROCESSES = 4


def main(argv: list[str]) -> int:
  """Prints the results; 1 if memory or errors grow, or the run fails."""
  with tempfile.TemporaryDirectory() as folder:
    program = [sys.executable, '-m', 'train.launch', CONFIG]
    options = ['--num_processes', str(PROCESSES), '--workdir', folder]
    begin = time.monotonic()
    env = os.environ | {'JAX_PLATFORMS': 'cpu'}
    with subprocess.Popen([*program, *options, *argv], env=env) as run:
      samples = _watch(run, pathlib.Path(folder))
    if run.returncode:
      return run.returncode
    minutes = (time.monotonic() - begin) / 60
    lines = metrics.read(pathlib.Path(folder, 'metrics.jsonl'))
  slopes = [_slope(series) for series in samples.values()]
  errors = [x['error_to_gradient'] for x in lines if 'error_to_gradient' in x]
  quarter = len(errors) // 4
  growth = np.mean(errors[-quarter:]) / np.mean(errors[quarter : 2 * quarter])
  print(
    f'\n{lines[-1]["step"]:,} steps on {PROCESSES} processes, {minutes:.0f}'
    f' minutes ({machine.describe()}).\n'
    'Parameters equal on all processes at every checkpoint, bit by bit.'
  )
  for i, (slope, noise, last) in enumerate(slopes):
    print(
      f'process {i}: {last:.0f} MB resident, {slope:+.2f} +- {noise:.2f} MB'
      ' per 1,000 steps'
    )
  print(f'Error over gradient, last quarter over the second one: {growth:.2f}')
  flat = all(s <= max(2 * noise, 0.001 * last) for s, noise, last in slopes)
  return 0 if flat and growth < 1.5 else 1


def _watch(
  run: subprocess.Popen[bytes], workdir: pathlib.Path
) -> dict[int, list[tuple[int, float]]]:
  """Resident memory of the processes: {pid: [(step, MB), ...]}."""
  samples: dict[int, list[tuple[int, float]]] = {}
  children = pathlib.Path(f'/proc/{run.pid}/task/{run.pid}/children')
  while run.poll() is None:
    time.sleep(1)
    lines = metrics.read(workdir / 'metrics.jsonl')
    if not lines or not children.exists():
      continue
    for pid in map(int, children.read_text().split()):
      if megabytes := _resident(pid):
        samples.setdefault(pid, []).append((lines[-1]['step'], megabytes))
  return samples


def _resident(pid: int) -> float:
  """MB of a process; 0 once it has ended."""
  try:
    text = pathlib.Path(f'/proc/{pid}/status').read_text(encoding='utf-8')
  except OSError:
    return 0.0
  found = [x for x in text.splitlines() if x.startswith('VmRSS:')]
  return int(found[0].split()[1]) / 1e3 if found else 0.0


def _slope(series: list[tuple[int, float]]) -> tuple[float, float, float]:
  """MB per 1,000 steps, its standard error, and the last value.

  The first fifth is left out, in which caches and buffers fill up. Successive
  readings are not independent, so the error is that of the means of ten
  stretches.
  """
  steps, sizes = np.array(series).T
  later = steps > 0.2 * steps[-1]
  steps, sizes = steps[later] / 1e3, sizes[later]
  x, y = (
    [part.mean() for part in np.array_split(values, 10)]
    for values in (steps, sizes)
  )
  (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
  return float(slope), float(np.sqrt(covariance[0, 0])), float(sizes[-1])


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
