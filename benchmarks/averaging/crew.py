"""Workers on hosts that do as they are told, all of them at the same time."""

from collections.abc import Sequence
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks import hosts as hosts_lib
from benchmarks import machine

_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'OPENBLAS_NUM_THREADS': '1',
  'OMP_NUM_THREADS': '1',
  **machine.ALLOCATOR,
}


class Failed(Exception):
  """A worker ended before its time."""


class Crew:
  """A process of a module on every host, each on a core of its own if it can.

  Args:
    hosts: where.
    module: 'benchmarks.averaging.ours' or one that speaks like it.
    model: what it is given, see `shapes`.
    port: of the first host.
    alone: whether each is the only worker of its own, so that they compute side
      by side and send nothing.
  """

  def __init__(
    self,
    hosts: hosts_lib.Hosts,
    module: str,
    model: str,
    port: int,
    alone: bool = False,
  ):
    cores = sorted(os.sched_getaffinity(0))
    self._processes: list[subprocess.Popen[str]] = []
    for i in range(hosts.count):
      pinned = ['taskset', '-c', str(cores[i % len(cores)])]
      module_words = [sys.executable, '-m', module, model]
      first, workers, index = 0, hosts.count, i
      if alone:
        first, workers, index = i, 1, 0
      place = [f'{hosts.address(first)}:{port}', str(workers), str(index)]
      self._processes.append(
        hosts.popen(
          i,
          [*pinned, *module_words, *place],
          text=True,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          env=os.environ | _ENVIRONMENT,
        )
      )
    self._answers()

  def run(self, method: str, kind: str, steps: int) -> list[float]:
    """Seconds of each step, of the slowest worker."""
    for process in self._processes:
      assert process.stdin is not None
      process.stdin.write(f'{method} {kind} {steps}\n')
      process.stdin.flush()
    return [max(of_all) for of_all in zip(*self._answers(), strict=True)]

  def end(self) -> None:
    """Lets the workers go."""
    for process in self._processes:
      assert process.stdin is not None
      process.stdin.close()
    for process in self._processes:
      process.wait()

  def _answers(self) -> Sequence[Any]:
    """A line from everybody."""
    lines = []
    for i, process in enumerate(self._processes):
      assert process.stdout is not None
      line = process.stdout.readline()
      if not line:
        raise Failed(f'worker {i} ended with {process.wait()}; see above')
      lines.append(json.loads(line))
    return lines
