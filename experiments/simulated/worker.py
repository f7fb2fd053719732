"""Runs cells, one after the other, in a process of its own."""

import fcntl
import json
import math
import pathlib
import queue as queues
import time
from typing import Any

from experiments.simulated.cells import Cell
from train.config import command_line
from train.config.schema import Config

RESULTS = 'results.jsonl'


def config_of(cell: Cell, overrides: list[str]) -> Config:
  """The configuration of a cell, of which `overrides` change some keys."""
  words = [cell.config, *cell.overrides.split(), *overrides]
  return command_line.parse(words, 'python -m experiments.simulated')[0]


def work(todo: Any, given: Any, overrides: list[str], begin: float) -> None:
  """Runs cells until there are none, or no time."""
  import jax

  from experiments.simulated import program, text

  jax.config.update('jax_default_matmul_precision', given['precision'])
  path = given['out'] / RESULTS
  device = jax.devices()[0].device_kind
  while time.time() - begin < given['limit_s']:
    try:
      cell = todo.get(timeout=1)
    except queues.Empty:
      return
    words = ' '.join([*cell.overrides.split(), *overrides])
    lanes = [
      program.Lane(rate, seed)
      for seed in range(min(cell.seeds, given['seeds']))
      for rate in cell.rates
    ]
    done = _done(path)
    lanes = [x for x in lanes if (cell.config, words, *x) not in done]
    if not lanes:
      continue
    about = {
      'config': cell.config,
      'overrides': words,
      'precision': given['precision'],
      'device': device,
      'jax': jax.__version__,
      'commit': given['commit'],
      'date': time.strftime('%Y-%m-%d'),
    }
    config = config_of(cell, overrides)
    try:
      found = program.run(config, text.load(config.data, given['text']), lanes)
      lines = [
        about
        | {
          'rate': x.lane.rate,
          'seed': x.lane.seed,
          'loss': _number(x.curve[-1][1]),
          'curve': [(step, _number(loss)) for step, loss in x.curve],
          'times_fewer': x.times_fewer,
          'compile_seconds': round(found.compile_seconds, 1),
          'run_seconds': round(found.run_seconds, 1),
          'lanes': len(lanes),
        }
        for x in found.outcomes
      ]
      best = min(
        (x['loss'] for x in lines if x['loss'] is not None), default=math.nan
      )
      said = (
        f'{best:.4f}, compiled {found.compile_seconds:.0f} s, ran'
        f' {found.run_seconds:.0f} s'
      )
    except Exception as error:  # The other cells can still run.
      lines = [about | {'error': f'{type(error).__name__}: {error}'[:2000]}]
      said = lines[0]['error'][:300]
    _append(path, lines)
    print(f'{time.time() - begin:.0f} s: {words}: {said}', flush=True)


def _append(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
  """Adds lines to a file that several processes write."""
  with path.open('a', encoding='utf-8') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(''.join(json.dumps(line) + '\n' for line in lines))


def _done(path: pathlib.Path) -> set[tuple[str, str, float, int]]:
  """The runs that have a result."""
  text = path.read_text(encoding='utf-8') if path.exists() else ''
  lines = [json.loads(line) for line in text.splitlines()]
  return {
    (x['config'], x['overrides'], x['rate'], x['seed'])
    for x in lines
    if 'error' not in x
  }


def _number(x: float) -> float | None:
  """The number; None if it is not finite, which JSON cannot say."""
  return x if math.isfinite(x) else None
