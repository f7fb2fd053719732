"""One of two processes that train in rounds: COORDINATOR INDEX FOLDER.

Process 1 stops in the middle of the first round until process 0 has finished
all local steps of it. Writes the parameters after every round, and checks that
an interrupted run resumes bit by bit.
"""

import dataclasses
import os
import pathlib
import sys
import time

import jax
import numpy as np

import runs
from train.config.schema import (
  Checkpoint,
  Compression,
  Evaluation,
  Local,
  Log,
  Mesh,
)
from train.run import loop

EVERY, STEPS = 4, 8
PATIENCE = 100


def settings(folder):
  """Two rounds of 4 steps on two workers; every step is logged."""
  return runs.settings(
    folder,
    steps=STEPS,
    compression=Compression('powersgd', rank=2),
    local=Local(every=EVERY),
    mesh=Mesh(replica=2),
    evaluation=Evaluation(every=0, sequences=16),
    checkpoint=Checkpoint(every=EVERY),
    log=Log(every=1, tensorboard=False),
  )


def main(coordinator, index, folder):
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(coordinator, 2, index)
  own = folder / f'data-{index}'
  own.mkdir()
  config = settings(own)
  taken = folder / 'taken'
  rounds = {}

  def after_step(now):
    if index == 0:
      taken.write_text(str(now.step))
    elif now.step == 2:
      await_text(taken, str(EVERY - 1))
    if now.step % EVERY == 0:
      rounds.update(flat(now.params, f'{now.step}'))

  loop.run(config, folder / 'whole', after_step=after_step)
  np.savez(folder / f'{index}.npz', **rounds)
  # Every worker's own error is saved, as this method is not linear.
  config = dataclasses.replace(config, compression=Compression('sign'))
  resumes(config, folder)


def resumes(config, folder):
  """Checks that a run that is cut in its second round ends as a whole one."""
  _, params = runs.run(config, folder / 'undisturbed')
  runs.interrupt(config, folder / 'cut', EVERY + 2)
  _, others = runs.run(config, folder / 'cut')
  runs.assert_equal(params, others)


def await_text(path, text):
  """Returns when a file holds that text."""
  until = time.monotonic() + PATIENCE
  while not path.exists() or path.read_text() != text:
    if time.monotonic() > until:
      print('process 0 waits for process 1 in a local step', flush=True)
      os._exit(1)  # An orderly exit would wait for process 0.
    time.sleep(0.01)


def flat(params, step):
  """Parameters by step and path, as this process holds them."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {
    f'{step}{jax.tree_util.keystr(path)}': np.asarray(x.addressable_data(0))
    for path, x in leaves
  }


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
