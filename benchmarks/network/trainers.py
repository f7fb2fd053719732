"""Runs the trainer with one process on every simulated host."""

from collections.abc import Callable, Sequence
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from benchmarks import machine
from benchmarks.network import hosts as hosts_lib
import greedylore_jax as gl
from train import tasks
from train.config import command_line
from train.study import budget

_INT8 = {'method': 'powersgd', 'factor_dtype': 'int8'}
_INT4 = {'method': 'powersgd', 'factor_dtype': 'int4'}
METHODS: dict[str, dict[str, Any]] = {
  'dense': {'method': 'dense'},
  'GreedyLore, r = 32': {'method': 'greedylore', 'rank': 32},
  'GreedyLore, r = 8': {'method': 'greedylore', 'rank': 8},
  'PowerSGD, int8, r = 32': {**_INT8, 'rank': 32},
  'PowerSGD, int8, r = 8': {**_INT8, 'rank': 8},
  'PowerSGD, 4 bits, r = 64': {**_INT4, 'rank': 64},
  'Quantize, 2 bits': {'method': 'quantize', 'bits': 2},
  'ChunkTopK, keep = 512': {'method': 'chunk_top_k', 'bits': 2, 'keep': 512},
  'ThresholdTopK, 5 %': {'method': 'threshold_top_k', 'density': 0.05},
  'CountSketch, 5 %': {'method': 'count_sketch', 'density': 0.05},
  'FRUGAL, 5 %': {'method': 'frugal', 'density': 0.05, 'start_step': 0},
}
_PORT = 7777  # Free: every host has its own network.


class Failed(Exception):
  """A trainer failed; the message holds its last lines of output."""


def options_of(method: str) -> dict[str, Any]:
  """Options of the command line for a key of `METHODS`."""
  return {f'compression.{k}': v for k, v in METHODS[method].items()}


def plan(config: str, options: dict[str, Any], workers: int) -> gl.Plan:
  """The plan of a run on that many workers."""
  words = _words(options | {'mesh.replica': workers})
  settings, _ = command_line.parse([config, *words], '')
  return budget.plan(settings, tasks.load(settings))


def start(
  hosts: hosts_lib.Hosts,
  workdir: pathlib.Path,
  config: str,
  options: dict[str, Any],
  counted: bool = False,
) -> list[subprocess.Popen[bytes]]:
  """Starts a run with one worker per host.

  Args:
    hosts: the hosts.
    workdir: folder of the run. Process I writes its output to output-I.txt
      and, if `counted`, the readings of its network card to card-I.jsonl.
    config: path of the configuration.
    options: section.key -> value, which override the configuration.
    counted: read the card between steps, see `benchmarks.network.counted`.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  processes = []
  for i in range(hosts.count):
    module = ['train']
    if counted:
      module = ['benchmarks.network.counted', str(workdir / f'card-{i}.jsonl')]
    given = options | {
      'workdir': workdir,
      'mesh.replica': hosts.count,
      'distributed.coordinator': f'{hosts.address(0)}:{_PORT}',
      'distributed.num_processes': hosts.count,
      'distributed.process_id': i,
    }
    with (workdir / f'output-{i}.txt').open('wb') as output:
      process = hosts.popen(
        i,
        [sys.executable, '-m', *module, config, *_words(given)],
        env=os.environ | machine.ENVIRONMENT,
        stdout=output,
        stderr=subprocess.STDOUT,
      )
    processes.append(process)
  return processes


def wait(
  processes: Sequence[subprocess.Popen[bytes]],
  workdir: pathlib.Path,
  *,
  timeout: float,
  meanwhile: Callable[[], None] = lambda: None,
) -> None:
  """Waits for the end of a run and calls `meanwhile` again and again.

  Raises:
    Failed: if a process fails, or the run takes more than `timeout` seconds.
  """
  until = time.monotonic() + timeout
  while None in (codes := [process.poll() for process in processes]):
    if any(codes):
      break
    if time.monotonic() > until:
      raise Failed(f'the run in {workdir} took more than {timeout:g} s')
    meanwhile()
    time.sleep(0.01)
  for i, code in enumerate(codes):
    if code:
      path = workdir / f'output-{i}.txt'
      last = path.read_text(encoding='utf-8').splitlines()[-15:]
      raise Failed('\n'.join([f'process {i} ended with {code}:', *last]))


def _words(options: dict[str, Any]) -> list[str]:
  return [word for k, v in options.items() for word in (f'--{k}', str(v))]
