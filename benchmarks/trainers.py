"""The trainer on every host, a process each."""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from benchmarks import hosts as hosts_lib
from benchmarks import machine

_PORT = 7777  # The hosts have a network of their own.
# The threads of OpenBLAS in several processes on the same few cores wait for
# each other: the eigenvectors of a refresh took 8 to 68 s instead of 1 s.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'OPENBLAS_NUM_THREADS': '1',
  **machine.ALLOCATOR,
}


class Failed(Exception):
  """A trainer did not end well; the message holds its last words."""


def start(
  hosts: hosts_lib.Hosts,
  workdir: pathlib.Path,
  config: str,
  options: dict[str, Any],
  counted: bool = False,
) -> list[subprocess.Popen[bytes]]:
  """Starts a run with a worker on every host.

  Args:
    hosts: where.
    workdir: of the run; output goes to output-I.txt in it, and the card's
      readings, if `counted`, to card-I.jsonl.
    config: path of the configuration.
    options: section.key -> value, on top of it.
    counted: whether the card is read between steps, see `benchmarks.counted`.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  processes = []
  for i in range(hosts.count):
    reading = ['benchmarks.counted', str(workdir / f'card-{i}.jsonl')]
    given = options | {
      'workdir': workdir,
      'mesh.replica': hosts.count,
      'distributed.coordinator': f'{hosts.address(0)}:{_PORT}',
      'distributed.num_processes': hosts.count,
      'distributed.process_id': i,
    }
    words = [word for k, v in given.items() for word in (f'--{k}', str(v))]
    command = [
      sys.executable,
      '-m',
      *(reading if counted else ['train']),
      config,
      *words,
    ]
    with (workdir / f'output-{i}.txt').open('wb') as output:
      streams = {'stdout': output, 'stderr': subprocess.STDOUT}
      environment = os.environ | _ENVIRONMENT
      processes.append(hosts.popen(i, command, env=environment, **streams))
  return processes


def running(
  processes: Sequence[subprocess.Popen[bytes]], workdir: pathlib.Path
) -> bool:
  """Whether the run goes on.

  Raises:
    Failed: if one of its processes ended badly.
  """
  codes = [process.poll() for process in processes]
  for i, code in enumerate(codes):
    if code:
      path = workdir / f'output-{i}.txt'
      last = path.read_text(encoding='utf-8').splitlines()[-15:]
      raise Failed('\n'.join([f'process {i} ended with {code}:', *last]))
  return None in codes


def wait(
  processes: Sequence[subprocess.Popen[bytes]],
  workdir: pathlib.Path,
  timeout: float,
) -> None:
  """Waits for the end of a run.

  Raises:
    Failed: if it ends badly, or not within `timeout` seconds.
  """
  until = time.monotonic() + timeout
  while running(processes, workdir):
    if time.monotonic() > until:
      raise Failed(f'the run in {workdir} took more than {timeout:g} s')
    time.sleep(0.1)
