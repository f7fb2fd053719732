"""The trainer, on one host, taking steps when ordered to.

    python -m benchmarks.network.links_ours WORKDIR COORDINATOR WORKERS ID

The name of the folder WORKDIR is a key of `METHODS`. Takes the orders of
`benchmarks.averaging.crew`; the answer is the mean and the median of the
seconds per step. Everything runs as in `python -m train`: data, loop, logging,
losses.
"""

import ctypes
import dataclasses
import itertools
import os
import pathlib
import statistics
import sys
import time
from typing import Any, TextIO

import jax

from benchmarks.averaging import crew
from train.config import command_line
from train.config.schema import Config
from train.distributed import processes
from train.run import loop
from train.run.checkpoint import Snapshot

CONFIG = 'configs/studies/time_to_loss.py'
SEQUENCES = 4  # Of 128 tokens, per worker and step.
_INT8 = {'compression.method': 'powersgd', 'compression.factor_dtype': 'int8'}
_INT4 = _INT8 | {'compression.factor_dtype': 'int4'}
_DENSE = {'compression.method': 'dense'}
_BITS2 = {'compression.method': 'quantize', 'compression.bits': 2}
METHODS: dict[str, dict[str, Any]] = {
  'alone': _DENSE,
  'dense': _DENSE,
  'powersgd': _INT8,
  'dense-30': _DENSE | {'local.every': 30},
  'powersgd-30': _INT8 | {'local.every': 30},
  'powersgd_int4-30': _INT4 | {'local.every': 30},
  'quantize2-30': _BITS2 | {'local.every': 30},
  'powersgd-100': _INT8 | {'local.every': 100},
  'powersgd_int4-100': _INT4 | {'local.every': 100},
  'quantize2-100': _BITS2 | {'local.every': 100},
}
_RUN = {
  'steps': 10**6,
  'optimizer.warmup_fraction': 0,
  'compression.rank': 32,
  'compression.start_step': 0,
  'evaluation.every': 0,
  'log.every': 10,
}


class _Ended(Exception):
  """There are no more orders."""


@dataclasses.dataclass
class _Orders:
  """Follows orders after the steps of a run."""

  answers: TextIO
  left: int
  """Steps until the end of this order."""
  ends: list[float] = dataclasses.field(default_factory=list)
  """When the order came, and when each of its steps was dispatched."""

  def after_step(self, now: Snapshot) -> None:
    """Answers after the last step of an order, and waits for the next one."""
    self.left -= 1
    if not self.left:
      jax.block_until_ready((now.params, now.opt_state))
    self.ends.append(time.perf_counter())
    if self.left:
      return
    if len(self.ends) > 1:
      crew.answer(self.answers, mean_and_median(self.ends))
    else:
      # What compiling took, which `machine.ENVIRONMENT` keeps: many workers
      # have to fit at the same time.
      ctypes.CDLL(None).malloc_trim(0)
      crew.answer(self.answers, 'ready')
    if not (order := sys.stdin.readline()):
      raise _Ended
    self.left = int(order.split()[2])
    self.ends = [time.perf_counter()]


def mean_and_median(ends: list[float]) -> list[float]:
  """Seconds per step; in a round, the median is that of a local step."""
  seconds = [b - a for a, b in itertools.pairwise(ends)]
  return [statistics.fmean(seconds), statistics.median(seconds)]


def config_of(method: str, workers: int) -> Config:
  """The configuration of a method."""
  options = _RUN | {'batch_size': SEQUENCES * workers, 'mesh.replica': workers}
  if 'local.every' in METHODS[method]:
    options['local.start_step'] = 1  # Rounds are orders, after the first step.
  words = [
    word
    for key, value in (options | METHODS[method]).items()
    for word in (f'--{key}', str(value))
  ]
  return command_line.parse([CONFIG, *words], '')[0]


def main(folder: str, coordinator: str, workers: str, index: str) -> None:
  """Trains until the orders end."""
  answers = crew.claim_output()
  workdir = pathlib.Path(folder)
  config = config_of(workdir.name, int(workers))
  if int(workers) > 1:
    join = dataclasses.replace(
      config.distributed,
      coordinator=coordinator,
      num_processes=int(workers),
      process_id=int(index),
    )
    config = dataclasses.replace(config, distributed=join)
  else:  # Several are alone at the same time.
    workdir = workdir / coordinator
  workdir.mkdir(parents=True, exist_ok=True)
  log = workdir / f'output-{index}.txt'
  os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
  orders = _Orders(answers, left=1)
  try:
    loop.run(config, workdir, after_step=orders.after_step)
  except _Ended:
    processes.leave(0)


if __name__ == '__main__':
  main(*sys.argv[1:])
