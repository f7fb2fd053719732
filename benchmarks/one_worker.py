"""What compression costs one worker: a training step with and without it.

    python -m benchmarks.one_worker [CONFIG ...] [--tokens 16384]

The same on CPU, GPU and TPU, whichever JAX finds: for each configuration the
step of one worker on one device, dense and compressed in turns, every kind of
step, and the device's memory at its peak as the compiler has it. Tokens are
random, as no time depends on them.
"""

import argparse
import dataclasses
import sys

import jax
import numpy as np

from benchmarks import machine
from train import tasks
from train.config import reader
from train.config import schema as config
from train.data import text
from train.data import windows
from train.distributed import cluster
from train.run import forecast

_CONFIGS = [
  f'configs/greedylore/llama.py:{size}'
  for size in ('60m', '130m', '350m', '1b')
]
_METHODS = 'greedylore', 'powersgd', 'dense'
_VOCABULARY = 32_000


def main() -> int:
  """Prints a line per configuration and method; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('configs', nargs='*', default=_CONFIGS)
  parser.add_argument('--tokens', type=int, default=16_384, help='in a step')
  parser.add_argument(
    '--methods',
    nargs='+',
    default=_METHODS,
    help='beside dense; dense once more among them tells the noise',
  )
  given = parser.parse_args()
  print(f'{machine.describe()}; {jax.devices()[0].device_kind}\n')
  print(
    '| model | parameters | method | dense, ms | compressed, ms | ratio |'
    ' refresh, ms | dense, GB | compressed, GB | plan adds, GB |'
  )
  print(f'|{"---|" * 10}')
  for path in given.configs:
    run = forecast.of_one_worker(reader.load(path))
    rows = max(1, given.tokens // run.data.sequence_length)
    run = dataclasses.replace(
      run,
      batch_size=rows,
      accumulate_steps=1,
      evaluation=config.Evaluation(sequences=0),
    )
    mesh = cluster.start(run)
    task = _task(run)
    runs = [_with(run, method) for method in given.methods]
    dense, *others = forecast.measure(
      [forecast.with_dense(run), *runs], mesh, task
    )
    for method, compressed in zip(given.methods, others, strict=True):
      print(_row(path, method, dense, compressed), flush=True)
  return 0


def _with(run: config.Config, method: str) -> config.Config:
  changes: dict = {'method': method, 'start_step': 0}
  changed = dataclasses.replace(run.compression, **changes)
  return dataclasses.replace(run, compression=changed)


def _task(run: config.Config) -> tasks.Task:
  """The model of a run on random tokens."""
  length = run.data.sequence_length
  rng = np.random.default_rng(0)
  tokens = rng.integers(_VOCABULARY, size=(run.batch_size, length + 1))
  tokens = tokens.astype(np.uint16)
  description = {
    'corpus': 'random',
    'train_tokens': tokens.size,
    'sha256': 'none',
    'held_out_tokens': tokens.size,
  }
  held_out = windows.HeldOut('', tokens, 1.0, tokens.size, 'none')
  return tasks.LanguageModeling(
    run, text.TextData(description, _VOCABULARY, tokens, (held_out,), 0)
  )


def _row(path, method, dense, compressed) -> str:
  count = sum(x.size for x in jax.tree.leaves(compressed.params))
  (alone,) = dense.seconds.values()
  step = compressed.seconds.get('compress', compressed.seconds.get('dense', 0))
  refresh = compressed.seconds.get('refresh')
  cells = [
    path.removesuffix('.py').split('/')[-1],
    f'{count / 1e6:.1f}M',
    method,
    f'{1e3 * alone:.1f}',
    f'{1e3 * step:.1f}',
    f'{step / alone:.3f}',
    f'{1e3 * refresh:.0f}' if refresh else '',
    f'{dense.memory / 1e9:.2f}',
    f'{compressed.memory / 1e9:.2f}',
    f'{compressed.added / 1e9:.2f}',
  ]
  return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
  sys.exit(main())
