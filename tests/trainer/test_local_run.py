"""Do runs with local updates train, count bytes, and resume?"""

import dataclasses

import jax
import numpy as np
import pytest

import greedylore_jax as gl
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
    local=Local(
      every=3, start_step=1, outer_learning_rate=0.7, outer_momentum=0.9
    ),
    checkpoint=Checkpoint(every=5),
    **changes,
  )


def find_local(opt_state):
  """The state of `local_updates` in that of the chain."""
  is_local = lambda x: isinstance(x, gl.LocalUpdatesState)
  (found,) = filter(is_local, jax.tree.leaves(opt_state, is_leaf=is_local))
  return found


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


@pytest.mark.slow
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
@pytest.mark.parametrize(
  'local',
  [
    Local(every=3, fragments=2, delay=1, start_step=1),
    pytest.param(Local(every=3, average_moments=2), marks=pytest.mark.slow),
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
  ('before', 'after', 'precision'),
  [
    pytest.param(4, 2, 'int8', marks=pytest.mark.slow),
    pytest.param(2, 4, 'int8', marks=pytest.mark.slow),
    pytest.param(4, 2, None, marks=pytest.mark.slow),
    pytest.param(2, 3, None, marks=pytest.mark.slow),
  ],
)
def test_another_number_of_workers_resumes_with_means(
  tmp_path, capsys, before, after, precision
):
  """x and the outer state are exact; errors and inner states are means.

  The mean of the errors is exact, and of equal inner states, each is.
  """
  compression = dataclasses.replace(COMPRESSION, factor_dtype=precision)
  begun = dataclasses.replace(
    settings(tmp_path, batch_size=12),
    compression=compression,
    mesh=Mesh(replica=before),
  )
  workdir = tmp_path / 'work'
  states = []

  def interrupted(now):
    if now.step == 7:  # A round ends, and the checkpoint of step 5 is due.
      states.append(jax.tree.map(np.asarray, (now.params, now.opt_state)))
      raise runs.Interrupted

  with pytest.raises(runs.Interrupted):
    loop.run(begun, workdir, after_step=interrupted)
  resumed = dataclasses.replace(begun, mesh=Mesh(replica=after))

  def build_job(config, mesh, task):
    job = runs.build_job(config, mesh, task)
    step = job.step

    def first_step(params, opt_state, batch):
      if len(states) == 1:
        states.append(jax.tree.map(np.asarray, (params, opt_state)))
      return step(params, opt_state, batch)

    return dataclasses.replace(job, step=first_step)

  summary, _ = runs.run(resumed, workdir, build_job)
  assert f'each of {after} begins with the mean' in capsys.readouterr().out
  (params, old), (resumed_params, new) = states
  runs.assert_equal(params, resumed_params)
  local, other = find_local(old), find_local(new)
  for state in (local, other):
    assert (int(state.count), state.since.tolist()) == (7, [0])
  checked = set()
  for (path, x), (_, y) in zip(
    jax.tree_util.tree_leaves_with_path((local.inner, local.outer)),
    jax.tree_util.tree_leaves_with_path((other.inner, other.outer)),
    strict=True,
  ):
    is_inner = getattr(path[0], 'idx', None) == 0
    is_error = any(getattr(key, 'name', '') == 'error' for key in path)
    checked.add((is_inner, is_error))
    if not is_inner and not is_error:
      np.testing.assert_array_equal(x, y)
      continue
    assert (x.shape[0], y.shape[0]) == (before, after)
    for own in y:
      np.testing.assert_allclose(own, x.mean(axis=0), rtol=1e-5, atol=1e-9)
  assert checked == {(True, False), (False, True), (False, False)}
  for x in jax.tree.leaves(other.delta):
    np.testing.assert_array_equal(x, 0)
  assert summary['num_workers'] == after
  assert summary['final_eval_loss'] < 5.2


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'every': 0}, r'local\.every must be at least 1, got 0'),
    ({'outer_momentum': 1.0, 'every': 2}, r'outer_momentum must be below 1'),
    ({'qsr_alpha': 0.0}, r'local\.qsr_alpha must be above 0, got 0\.0'),
    ({'start_step': 3}, r'local\.start_step is only for local\.every above 1'),
    ({'selsync_threshold': 0.1}, r'needs a longest round, local\.every'),
    (
      {'every': 2, 'outer_nesterov': False},
      r'local\.outer_nesterov is only for local\.outer_momentum above 0',
    ),
  ],
)
def test_mistakes_are_one_line(changes, message):
  with pytest.raises(ValueError, match=message):
    Local(**changes)


def test_an_optimizer_that_sends_by_itself_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'local\.every is only for .* as tsr:'):
    dataclasses.replace(settings(tmp_path), compression=Compression('tsr_adam'))


@pytest.mark.slow
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
