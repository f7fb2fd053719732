"""Is Muon the optimizer of the matrices, and AdamW that of everything else?"""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import runs
from train import tasks
from train.config.schema import (
  Checkpoint,
  Compression,
  Data,
  Evaluation,
  Local,
  Mesh,
  Model,
  Optimizer,
)
from train.run import optimizer

MUON = Optimizer('muon', learning_rate=2e-2)


def one_step(config, schedule=None, steps=3):
  """Updates of several equal gradients on one worker: (task, params, them)."""
  task = tasks.load(config)
  tx, rates = optimizer.build(config, 'worker', task, schedule=schedule)
  params = jax.jit(task.init)(0)
  noise = lambda x: np.random.default_rng(x.size).normal(size=(1, *x.shape))
  grads = jax.tree.map(lambda x: noise(x).astype(np.float32), params)

  def updates(grads):
    state = tx.init(params)
    for _ in range(steps):
      found, state = tx.update(grads, state, params)
    return found

  of_worker = jax.vmap(updates, axis_name='worker', out_axes=None)
  own = jax.tree.map(lambda x: x[0], grads)
  return task, params, own, jax.jit(of_worker)(grads), rates


def check_orthogonal(matrix, rate):
  """Newton-Schulz makes all singular values close to one."""
  inputs, outputs = matrix.shape
  scale = rate * np.sqrt(max(1, outputs / inputs))
  values = np.linalg.svd(matrix, compute_uv=False) / scale
  assert values.min() > 0.3 and values.max() < 1.3


def settings(folder, **changes):
  options = {'compression': Compression('dense'), 'optimizer': MUON}
  return runs.settings(folder, **(options | changes))


@pytest.mark.parametrize(
  'scan', [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_matrices_get_orthogonal_updates_and_the_rest_those_of_adamw(
  tmp_path, scan
):
  model = Model(width=16, layers=2, heads=2, feed_forward=24, scan=scan)
  options = dataclasses.replace(
    MUON, adam_learning_rate=3e-3, b2=0.95, eps=1e-6, clip_norm=0.0
  )
  config = settings(tmp_path, model=model, optimizer=options)
  _, params, grads, updates, schedule = one_step(config)
  adamw = optax.adamw(
    lambda count: schedule(count) * 3e-3 / 2e-2,
    b2=0.95,
    eps=1e-6,
    mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
  )
  state = adamw.init(params)
  for _ in range(3):
    expected, state = adamw.update(grads, state, params)
  rate = float(schedule(2))
  is_matrix = {'attention', 'feed_forward'}
  seen = set()
  for (path, update), other in zip(
    jax.tree_util.tree_leaves_with_path(updates),
    jax.tree.leaves(expected),
    strict=True,
  ):
    names = {getattr(x, 'key', None) for x in path}
    muon = bool(names & is_matrix)
    seen.add(muon)
    if not muon:
      np.testing.assert_allclose(update, other, rtol=1e-4, atol=1e-9)
      continue
    for matrix in np.reshape(update, (-1, *update.shape[-2:])):
      check_orthogonal(matrix, rate)
  assert seen == {True, False}


@pytest.mark.slow
def test_kernels_of_convolutions_are_matrices(tmp_path):
  model = Model(name='resnet8', width=4)
  config = settings(tmp_path, data=Data('digits'), model=model)
  task, params, _, updates, schedule = one_step(config)
  numbers = jax.tree.leaves(
    task.matrices(params, False),
    is_leaf=lambda x: isinstance(x, tuple) or x is None,
  )
  kernels = [
    update
    for update, x in zip(jax.tree.leaves(updates), numbers, strict=True)
    if x is not None
  ]
  assert max(x.ndim for x in kernels) == 4
  for update in kernels:
    matrix = np.reshape(update, (-1, update.shape[-1]))
    check_orthogonal(matrix, float(schedule(2)))


def test_a_schedule_with_a_traced_peak_replaces_both_rates(tmp_path):
  config = settings(tmp_path)

  def updates(peak):
    schedule = lambda count: peak * optimizer.learning_rates(config)(count)
    return one_step(config, schedule)[3]

  half, whole = jax.jit(updates)(0.5), jax.jit(updates)(1.0)
  assert any(np.any(x != 0) for x in jax.tree.leaves(whole))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(2 * x, y, rtol=1e-5, atol=1e-9),
    half,
    whole,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('mesh', 'local'),
  [
    (Mesh(replica=4), Local()),
    (Mesh(replica=4), Local(every=3)),
    (Mesh(replica=2, fsdp=2), Local(every=3)),
  ],
  ids=['every step', 'local', 'local, sharded'],
)
def test_a_run_trains_and_resumes_behind_compression(tmp_path, mesh, local):
  config = settings(
    tmp_path,
    compression=Compression('powersgd', rank=2),
    mesh=mesh,
    local=local,
    checkpoint=Checkpoint(every=3),
    evaluation=Evaluation(every=0, sequences=16),
  )
  summary, params = runs.run(config, tmp_path / 'whole')
  runs.check_bytes(config, tmp_path / 'whole', summary)
  assert summary['final_eval_loss'] < 5.45  # From 5.55.
  runs.interrupt(config, tmp_path / 'parts', 7)
  _, others = runs.run(config, tmp_path / 'parts')
  runs.assert_close(params, others)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'name': 'sgd', 'adam_learning_rate': 1e-3},
      'only for optimizer.name muo',
    ),
    ({'name': 'muon', 'momentum': 1.0}, 'momentum must be below 1'),
    (
      {'name': 'muon', 'learning_rate': 0.0, 'adam_learning_rate': 1e-3},
      'only for optimizer.learning_rate above 0',
    ),
  ],
)
def test_mistakes_are_one_line(options, message):
  with pytest.raises(ValueError, match=message):
    Optimizer(**options)


def test_tsr_adam_is_no_muon(tmp_path):
  config = settings(tmp_path, compression=Compression('tsr_adam'))
  with pytest.raises(ValueError, match=r'takes optimizer\.name adamw'):
    optimizer.build(config, 'worker', tasks.load(config))
