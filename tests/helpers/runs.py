"""Runs of the trainer that take seconds, for the tests."""

import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import pytest

from train import tasks
from train.config.schema import (
  Checkpoint,
  Compression,
  Config,
  Data,
  Evaluation,
  Log,
  Mesh,
  Model,
)
from train.run import build, loop, paths
from train.study import budget
import workers

TEXT = 'the quick brown fox jumps over the lazy dog, again and again. '


def settings(folder, **changes):
  """A run of seconds: 8 steps of a tiny model on 4 workers."""
  files = tuple(str(folder / f'{name}.txt') for name in 'abcd')
  for i, file in enumerate(files):
    pathlib.Path(file).write_text(TEXT * (40 + i), encoding='utf-8')
  start = Config(
    steps=8,
    batch_size=8,
    data=Data(
      source='files', files=files, sequence_length=16, eval_fraction=0.2
    ),
    model=Model(width=16, layers=1, heads=2, feed_forward=24),
    compression=Compression(rank=2, update_interval=3, start_step=1, probes=2),
    mesh=Mesh(replica=4),
    evaluation=Evaluation(every=4, sequences=16),
    checkpoint=Checkpoint(every=4),
    log=Log(every=2, tensorboard=False),
  )
  return dataclasses.replace(start, **changes)


def write(folder, **changes):
  """The usual run as a file of configs/; its path."""
  path = folder / 'mine.py'
  text = f'config = {settings(folder, **changes)!r}'
  path.write_text(text, encoding='utf-8')
  return str(path)


def environment(**more):
  """For a run in a process of its own: it compiles fast, or not at all."""
  return (
    os.environ
    | {
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
      'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
      'PYTHONUNBUFFERED': '1',
    }
    | more
  )


def build_job(settings, mesh, task):
  """What a run compiles, shared by all runs that compile the same."""
  fields = dataclasses.asdict(settings)
  for section in ('data', 'checkpoint', 'distributed'):
    del fields[section]
  fields['log'] = settings.log.diagnostics
  key = json.dumps([fields, task.description])
  if key not in _JOBS:
    _JOBS[key] = build.job(settings, mesh, task)
  job = _JOBS[key]
  # Steps donate their arguments.
  params, opt_state = jax.tree.map(
    lambda x: x.copy(), (job.fresh.params, job.fresh.opt_state)
  )
  fresh = dataclasses.replace(job.fresh, params=params, opt_state=opt_state)
  return dataclasses.replace(job, task=task, fresh=fresh)


_JOBS = {}


def run(settings, workdir, build_job=build_job):
  """Runs to the end; the summary and the parameters after the last step."""
  last = []
  keep = lambda now: last.__setitem__(slice(None), [now.params])
  summary = loop.run(settings, workdir, after_step=keep, build_job=build_job)
  return summary, jax.tree.map(np.asarray, last[0]) if last else None


def interrupt(settings, workdir, steps):
  """Runs so many steps; then the power is cut."""

  def after_step(now):
    if now.step == steps:
      raise Interrupted

  with pytest.raises(Interrupted):
    loop.run(settings, workdir, after_step=after_step, build_job=build_job)


def assert_equal(params, others):
  """Raises unless two trees of parameters are equal bit by bit."""
  jax.tree.map(np.testing.assert_array_equal, params, others)


def assert_close(params, others):
  """Raises unless they are equal up to rounding."""

  def compare(a, b):
    # Adam divides by what may be close to zero, so rounding is amplified.
    assert workers.relative(a, b) < 10 * workers.FLOAT32_ROUNDING

  jax.tree.map(compare, params, others)


def lines_of(workdir):
  text = (workdir / paths.METRICS).read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def check_bytes(settings, workdir, summary):
  """One account of bytes: the summary's, the last lines' and the budget's."""
  for line in lines_of(workdir)[-2:]:
    for key in ('bytes_sent', 'dense_bytes'):
      assert line[key] == summary[key], key
  predicted = budget.times_fewer(settings, tasks.load(settings))
  assert summary['compression'] == pytest.approx(predicted, rel=1e-12)


class Interrupted(Exception):
  """Stands for a power cut."""
