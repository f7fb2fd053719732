"""Are rounds in two processes one run, and do local steps wait for nobody?"""

import os
import pathlib
import sys

import numpy as np
import pytest

import local_process
import runs
import together
import train
from train.run import loop
import workers

HELPERS = pathlib.Path(workers.__file__).parent
ROOT = pathlib.Path(train.__file__).parent.parent


def in_two_processes(folder):
  """Runs `local_process` on both sides; the parameters after each round."""
  address = together.free_address()
  path = os.pathsep.join((str(ROOT), str(HELPERS)))
  program = sys.executable, HELPERS / 'local_process.py'
  together.run(
    [[*program, address, i, folder] for i in range(2)],
    timeout=500,
    environments=[runs.environment(PYTHONPATH=path)] * 2,
  )
  return [np.load(folder / f'{i}.npz', allow_pickle=False) for i in range(2)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_are_one_run_and_local_steps_wait_for_nobody(tmp_path):
  """See `local_process` for what is checked there.

  Process 1 takes step 3 when process 0 has taken it, so any communication in a
  local step, that of a loss that is logged included, ends in a timeout.
  """
  a, b = in_two_processes(tmp_path)
  rounds = {}

  def after_step(now):
    if now.step % local_process.EVERY == 0:
      rounds.update(local_process.flat(now.params, f'{now.step}'))

  config = local_process.settings(tmp_path)
  loop.run(config, tmp_path / 'one', after_step=after_step)
  assert a.files == b.files == [*rounds]
  for name, x in rounds.items():
    np.testing.assert_array_equal(a[name], b[name])
    assert workers.relative(a[name], x) < 10 * workers.FLOAT32_ROUNDING
  two, one = (runs.lines_of(tmp_path / name) for name in ('whole', 'one'))
  for x, y in zip(two, one, strict=True):
    assert x['step'] == y['step']
    assert x['bytes_sent'] == y['bytes_sent']
    loss = 'loss' if 'loss' in x else 'eval_loss'
    assert x[loss] == pytest.approx(y[loss], rel=1e-5)
