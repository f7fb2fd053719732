"""Do runs with local updates train, count bytes, and resume?"""

import dataclasses

import jax
import numpy as np
import pytest

import runs
from train import tasks
from train.config.schema import Checkpoint, Compression, Evaluation, Local, Mesh
from train.run import loop
from train.study import budget

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


def test_rounds_grow_as_the_rate_falls(tmp_path):
  """What is sent is what the plan says, step by step."""
  config = dataclasses.replace(
    settings(tmp_path),
    local=Local(every=2, qsr_alpha=4e-3),
    evaluation=Evaluation(every=0, sequences=16),
  )
  summary, _ = runs.run(config, tmp_path / 'work')
  runs.check_bytes(config, tmp_path / 'work', summary)


@pytest.mark.parametrize(
  'local',
  [
    Local(every=3, fragments=2, delay=1, start_step=1),
    Local(every=3, average_moments=2),
  ],
  ids=['fragments', 'moments'],
)
def test_more_ways_of_rounds_count_their_bytes_and_resume(tmp_path, local):
  config = dataclasses.replace(
    settings(tmp_path),
    local=local,
    evaluation=Evaluation(every=0, sequences=16),
  )
  summary, params = runs.run(config, tmp_path / 'whole')
  runs.check_bytes(config, tmp_path / 'whole', summary)
  runs.interrupt(config, tmp_path / 'parts', 8)
  resumed, others = runs.run(config, tmp_path / 'parts')
  assert resumed['bytes_sent'] == summary['bytes_sent']
  runs.assert_close(params, others)


def test_selsync_counts_the_rounds_that_it_took(tmp_path):
  """Of which no plan knows: 4 bytes a step, and a round when one is due."""
  config = dataclasses.replace(
    settings(tmp_path),
    local=Local(every=4, selsync_threshold=1e6),
    evaluation=Evaluation(every=0, sequences=16),
  )
  summary, _ = runs.run(config, tmp_path / 'work')
  plan = build_plan(config)
  # Gradients never change so much: rounds of 4, 4 and the rest of 10 steps.
  assert summary['bytes_sent'] == 10 * 4 + 3 * plan.bytes_in('compress')
  assert plan.bytes_after(10) == 10 * (4 + plan.bytes_in('compress'))


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
  with pytest.raises(ValueError, match=r'local\.every is only for .* as tsr:'):
    dataclasses.replace(settings(tmp_path), compression=Compression('tsr_adam'))


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
