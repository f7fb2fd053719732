"""`python -m experiments.elastic_local [SEED ...]`: resumed runs, compared.

Trains on 4 and on 2 workers with local updates, and resumes each from its
checkpoint after step 400 on the other number of workers. Appends one line per
run to results.jsonl next to this file.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile

from train.config import command_line
from train.config.schema import Config
from train.run import loop, paths

_FILE = pathlib.Path(__file__).with_name('results.jsonl')
_SAVED, _END = 400, 600
_COMMAND = f"""
configs/studies/family.py --local.every 10 --compression.rank 22
--compression.factor_dtype int8 --compression.start_step 0
--local.outer_learning_rate 0.7 --local.outer_momentum 0.9
--checkpoint.every {_SAVED} --evaluation.every 50
"""


class _Ended(Exception):
  """Stands for a power cut, after all that was to be measured."""


def main() -> None:
  """Runs the seeds of the command line, by default 0."""
  for seed in map(int, sys.argv[1:] or ['0']):
    with tempfile.TemporaryDirectory() as folder:
      for begun, resumed in ((4, 2), (2, 4)):
        workdir = pathlib.Path(folder) / f'{begun}'
        _train(seed, begun, workdir)
        _keep(workdir, seed=seed, begun=begun, resumed=None)
        copy = workdir.with_name(f'{begun}_to_{resumed}')
        shutil.copytree(workdir, copy)
        _train(seed, resumed, copy)
        _keep(copy, seed=seed, begun=begun, resumed=resumed)


def _train(seed: int, workers: int, workdir: pathlib.Path) -> None:
  """Trains until `_END`, from the last checkpoint in the folder."""
  words = [*_COMMAND.split(), '--mesh.replica', str(workers)]
  for key in ('seed', 'data.seed', 'compression.seed'):
    words += [f'--{key}', str(seed)]
  config: Config = command_line.parse(words, 'experiments')[0]

  def after_step(now: loop.Snapshot) -> None:
    if now.step == _END:
      raise _Ended

  with contextlib.suppress(_Ended):
    loop.run(
      dataclasses.replace(config, workdir=str(workdir)),
      workdir,
      after_step=after_step,
    )


def _keep(workdir: pathlib.Path, **of: int | None) -> None:
  """Appends the held-out losses of a run."""
  text = (workdir / paths.METRICS).read_text(encoding='utf-8')
  lines = map(json.loads, text.splitlines())
  losses = {x['step']: x['eval_loss'] for x in lines if 'eval_loss' in x}
  with _FILE.open('a', encoding='utf-8') as file:
    file.write(json.dumps(of | {'eval_loss': losses}) + '\n')


if __name__ == '__main__':
  main()
