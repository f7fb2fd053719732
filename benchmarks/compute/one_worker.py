"""What compression costs one worker: a training step with and without it.

    python -m benchmarks.compute.one_worker [CONFIG ...] [--tokens 16384] \
        [--section.key VALUE ...]

Runs on CPU, GPU or TPU, whichever JAX finds. For each configuration it times
the step of one worker on one device, dense and compressed in turns and in every
phase, and reads the device's peak memory from the compiler. Tokens are random,
because no time depends on them. Keys of the configuration change all of them.
"""

import argparse
import dataclasses
import math
import sys
import time

import jax
import numpy as np

from benchmarks import machine
from train import tasks
from train.config import command_line, exit_codes
from train.config import schema as config
from train.data import text, windows
from train.distributed import cluster
from train.run import forecast
from train.study import tables

_CONFIGS = tuple(
  f'configs/greedylore/llama.py:{size}'
  for size in ('60m', '130m', '350m', '1b')
)
_METHODS = ('greedylore', 'powersgd', 'dense')
_VOCABULARY = 32_000
_COLUMNS = (
  'model',
  'parameters',
  'method',
  'dense, ms',
  'compressed, ms',
  'ratio',
  'refresh, ms',
  'dense, GB',
  'compressed, GB',
  'plan adds, GB',
  'compile, s',
)


_PROG = 'python -m benchmarks.compute.one_worker'


def main() -> int:
  """Prints one line per configuration and method; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('configs', nargs='*', default=_CONFIGS)
  add('--tokens', type=int, default=16_384, help='in a step')
  add('--methods', nargs='+', default=_METHODS, help='dense shows the noise')
  add('--turns', type=int, default=3, help='of each method; more is steadier')
  add('--limit_s', type=float, default=math.inf, help='no new CONFIG after it')
  given, overrides = parser.parse_known_args()
  begin = time.monotonic()
  load = lambda path: command_line.parse([path, *overrides], _PROG)[0]
  try:
    loaded = {path: load(path) for path in given.configs}
  except exit_codes.UsageError as error:
    return exit_codes.fail(error)
  print(f'{machine.describe()}; {jax.devices()[0].device_kind}\n')
  print(tables.head(*_COLUMNS))
  for path, run in loaded.items():
    if time.monotonic() - begin > given.limit_s:
      print(f'{path}: not begun after {given.limit_s:g} s', flush=True)
      continue
    run = forecast.of_one_worker(run)
    run = dataclasses.replace(
      run,
      batch_size=max(1, given.tokens // run.data.sequence_length),
      accumulate_steps=1,
      evaluation=config.Evaluation(sequences=0),
    )
    mesh = cluster.start(run)
    runs = [forecast.with_dense(run), *(_with(run, x) for x in given.methods)]
    dense, *others = forecast.measure(runs, mesh, _task(run), turns=given.turns)
    for method, compressed in zip(given.methods, others, strict=True):
      print(_row(path, method, dense, compressed), flush=True)
  return 0


def _with(run: config.Config, method: str) -> config.Config:
  changes: dict = {'method': method, 'start_step': 0}
  changed = dataclasses.replace(run.compression, **changes)
  return dataclasses.replace(run, compression=changed)


def _task(run: config.Config) -> tasks.Task:
  """The model of a run on random tokens."""
  shape = run.batch_size, run.data.sequence_length + 1
  rng = np.random.default_rng(0)
  tokens = rng.integers(_VOCABULARY, size=shape).astype(np.uint16)
  description = {
    'corpus': 'random',
    'train_tokens': tokens.size,
    'sha256': 'none',
    'held_out_tokens': tokens.size,
  }
  held_out = windows.HeldOut('', tokens, 1.0, tokens.size, 'none')
  data = text.TextData(
    description=description,
    vocab_size=_VOCABULARY,
    training_windows=tokens,
    held_out=(held_out,),
    remarks=(),
    seed=0,
  )
  return tasks.LanguageModeling(run, data)


def _row(path, method, dense, compressed) -> str:
  count = sum(x.size for x in jax.tree.leaves(compressed.params))
  (alone,) = dense.seconds.values()
  step = compressed.seconds.get('compress', compressed.seconds.get('dense', 0))
  refresh = compressed.seconds.get('refresh')
  return tables.row(
    path.split('/')[-1],
    f'{count / 1e6:.1f}M',
    method,
    f'{1e3 * alone:.1f}',
    f'{1e3 * step:.1f}',
    f'{step / alone:.3f}',
    f'{1e3 * refresh:.0f}' if refresh else '',
    f'{dense.memory / 1e9:.2f}',
    f'{compressed.memory / 1e9:.2f}',
    f'{compressed.added / 1e9:.2f}',
    f'{compressed.build_seconds:.0f}',
  )


if __name__ == '__main__':
  sys.exit(main())
