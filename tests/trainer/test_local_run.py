"""Do runs with local updates train, count bytes, and resume?"""

import dataclasses

import jax
import numpy as np
import pytest

import runs
from train import tasks
from train.config.schema import (
  Checkpoint,
  Compression,
  Evaluation,
  Local,
  Log,
  Mesh,
)
from train.run import loop
from train.study import budget

LOG = Log(every=1, tensorboard=False)
COMPRESSION = Compression('powersgd', rank=2, error_decay=0.9)


def settings(folder, **changes):
  """Rounds end after steps 1, 4, 7, 10; checkpoints are due after 5 and 10."""
  return runs.settings(
    folder,
    steps=10,
    compression=COMPRESSION,
    local=Local(every=3, start_step=1),
    checkpoint=Checkpoint(every=5),
    **changes,
  )


def build_plan(config):
  return budget.plan(config, tasks.load(config))


def test_a_run_of_rounds_counts_its_bytes_and_resumes_exactly(tmp_path):
  config = settings(tmp_path)
  summary, params = runs.run(config, tmp_path / 'whole')
  runs.check_bytes(config, tmp_path / 'whole', summary)
  # 4 rounds of 10 steps, and the loss is not sent.
  assert summary['compression'] > 2.5
  assert summary['final_eval_loss'] < 5.2
  errors = sum(x.error_bytes for x in build_plan(config).leaves)
  assert summary['checkpoint_bytes'] == 2 * errors
  # The checkpoint that is due after step 5 waits for the end of the round.
  runs.interrupt(config, tmp_path / 'parts', 9)
  saved = tmp_path / 'parts' / 'checkpoints'
  assert sorted(x.name for x in saved.iterdir()) == ['7']
  resumed, others = runs.run(config, tmp_path / 'parts')
  assert resumed['bytes_sent'] == summary['bytes_sent']
  runs.assert_close(params, others)


def test_losses_of_local_steps_are_written_at_the_end_of_their_round(tmp_path):
  """Their mean is sent, so a line waits for a step that sends anyway."""
  config = dataclasses.replace(settings(tmp_path), log=LOG)
  written = []

  def after_step(now):
    lines = [x['step'] for x in runs.lines_of(tmp_path / 'work') if 'loss' in x]
    written.append(lines)

  loop.run(
    config, tmp_path / 'work', after_step=after_step, build_job=runs.build_job
  )
  # Rounds end after steps 1, 4, 7 and 10; the loss is evaluated after 4 and 8.
  complete = [1, 1, 1, 4, 4, 4, 7, 8, 8, 10]
  assert written == [[*range(1, last + 1)] for last in complete]
  lines = runs.lines_of(tmp_path / 'work')
  steps = [x['step'] for x in lines]
  assert steps == sorted(steps)
  seconds = [x['seconds'] for x in lines if 'loss' in x]
  assert len({*seconds}) == 10, 'each was measured when its step was taken'


def test_rounds_grow_as_the_rate_falls(tmp_path):
  """What is sent is what the plan says, step by step."""
  config = dataclasses.replace(
    settings(tmp_path),
    local=Local(every=2, qsr_alpha=4e-3),
    evaluation=Evaluation(every=0, sequences=16),
  )
  summary, _ = runs.run(config, tmp_path / 'work')
  runs.check_bytes(config, tmp_path / 'work', summary)


@pytest.mark.slow
def test_another_number_of_workers_is_refused(tmp_path):
  config = settings(tmp_path)
  runs.interrupt(config, tmp_path / 'work', 8)
  fewer = dataclasses.replace(config, mesh=Mesh(replica=2))
  with pytest.raises(ValueError, match='state of 4 workers, got 2'):
    loop.run(fewer, tmp_path / 'work')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'every': 0}, r'local\.every must be at least 1, got 0'),
    ({'outer_momentum': 1.0, 'every': 2}, r'outer_momentum must be below 1'),
    ({'start_step': 3}, r'local\.start_step is only for local\.every above 1'),
  ],
)
def test_mistakes_are_one_line(changes, message):
  with pytest.raises(ValueError, match=message):
    Local(**changes)


def test_an_optimizer_that_sends_by_itself_is_refused(tmp_path):
  config = settings(tmp_path)
  config = dataclasses.replace(config, compression=Compression('tsr_adam'))
  with pytest.raises(ValueError, match=r'method tsr_adam.*use tsr'):
    loop.run(config, tmp_path / 'work')


def test_the_last_step_ends_a_round(tmp_path):
  """Rounds of 3 after step 1 end at 4, 7 and 9: no step is lost."""
  config = dataclasses.replace(settings(tmp_path), steps=9)
  plan = build_plan(config)
  ends = [i + 1 for i in range(9) if plan.phase_at(i) != 'local']
  assert ends == [1, 4, 7, 9]
  params = []

  def after_step(now):
    params.append(jax.tree.map(np.asarray, now.params['norm']))

  summary = loop.run(config, tmp_path / 'work', after_step=after_step)
  runs.check_bytes(config, tmp_path / 'work', summary)
  assert np.any(params[8] != params[7])
  np.testing.assert_array_equal(params[7], params[6])
