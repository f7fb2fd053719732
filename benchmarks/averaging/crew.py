"""Workers on simulated hosts that wait for orders, all at the same time.

An order is a line 'METHOD KIND STEPS' on a worker's standard input; the answer
is a list of seconds as JSON on its standard output.
"""

from collections.abc import Callable, Sequence
import json
import os
import subprocess
import sys
from typing import Any, TextIO

from benchmarks import machine
from benchmarks.network import hosts as hosts_lib

_ENVIRONMENT = machine.ENVIRONMENT | {'OMP_NUM_THREADS': '1'}


class Failed(Exception):
  """A worker ended too early."""


class Crew:
  """One process of a module per host, each on its own core if there are enough.

  Args:
    hosts: the hosts.
    module: 'benchmarks.averaging.ours' or 'benchmarks.averaging.theirs'.
    model: key of `shapes.LLAMAS`.
    port: of the first host.
    alone: every process is the only worker of a separate run, so they compute
      at the same time and send nothing.
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
      first, workers, index = (i, 1, 0) if alone else (0, hosts.count, i)
      pinned = ['taskset', '-c', str(cores[i % len(cores)])]
      place = [f'{hosts.address(first)}:{port}', str(workers), str(index)]
      process = hosts.popen(
        i,
        [*pinned, sys.executable, '-m', module, model, *place],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | _ENVIRONMENT,
      )
      self._processes.append(process)
    self._answers()

  def run(self, method: str, kind: str, steps: int) -> list[float]:
    """Seconds of each step, of the slowest worker."""
    for process in self._processes:
      assert process.stdin is not None
      process.stdin.write(f'{method} {kind} {steps}\n')
      process.stdin.flush()
    return [max(of_all) for of_all in zip(*self._answers(), strict=True)]

  def end(self) -> None:
    """Ends the workers."""
    for process in self._processes:
      assert process.stdin is not None
      process.stdin.close()
    for process in self._processes:
      process.wait()

  def _answers(self) -> Sequence[Any]:
    """One line from every worker."""
    lines = []
    for i, process in enumerate(self._processes):
      assert process.stdout is not None
      line = process.stdout.readline()
      if not line:
        raise Failed(f'worker {i} ended with {process.wait()}; see above')
      lines.append(json.loads(line))
    return lines


def claim_output() -> TextIO:
  """A worker's standard output; what libraries print goes to stderr."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  return answers


def answer(answers: TextIO, value: Any) -> None:
  """Writes what the crew waits for: 'ready', and a list for each order."""
  print(json.dumps(value), file=answers, flush=True)


def follow(
  answers: TextIO, run: Callable[[str, str, int], list[float]]
) -> None:
  """Writes 'ready', then the answer to each order."""
  answer(answers, 'ready')
  for line in sys.stdin:
    method, kind, steps = line.split()
    answer(answers, run(method, kind, int(steps)))
