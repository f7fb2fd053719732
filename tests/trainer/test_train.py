"""Does a run do what it says, and resume exactly where it stopped?"""

import dataclasses
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import pages
import runs
from train import tasks
from train.config.schema import (
  Compression,
  Config,
  Data,
  Evaluation,
  Log,
  Mesh,
  Optimizer,
)
from train.run import build, loop, optimizer


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """An uninterrupted run: its folder, workdir, summary and parameters."""
  folder = tmp_path_factory.mktemp('run')
  summary, params = runs.run(runs.settings(folder), folder / 'work')
  return folder, folder / 'work', summary, params


def test_a_run_leaves_what_it_promises(finished):
  folder, workdir, summary, _ = finished
  assert json.loads((workdir / 'summary.json').read_text()) == summary
  assert summary['steps'] == 8
  assert summary['num_workers'] == 4
  assert summary['compressor'] == 'greedylore'
  for name in ('final_loss', 'final_eval_loss', 'seconds', 'compression'):
    assert math.isfinite(summary[name])
  saved = json.loads((workdir / 'config.json').read_text())
  settings = dataclasses.asdict(runs.settings(folder))
  assert saved == json.loads(json.dumps(settings))
  train = [x for x in runs.lines_of(workdir) if 'loss' in x]
  assert [x['step'] for x in train] == [2, 4, 6, 8]
  for key in (
    'loss',
    'learning_rate',
    'seconds',
    'tokens_per_second',
    'bytes_sent',
    'dense_bytes',
  ):
    assert all(math.isfinite(x[key]) for x in train), key
  held_out = [x for x in runs.lines_of(workdir) if 'eval_loss' in x]
  assert [x['step'] for x in held_out] == [4, 8]
  page = pages.parse((workdir / 'report.html').read_text(encoding='utf-8'))
  shown = pages.text_of(pages.sections(page)['Result'])
  assert '8 steps took the training loss from' in shown


def test_the_guide_loads_the_model_of_a_run(finished):
  _, workdir, _, params = finished
  guide = pathlib.Path(gl.__file__).parent.parent / 'docs/how_to/trainer.md'
  program = re.search(
    '^```py\n(.*?)^```', guide.read_text('utf-8'), re.M | re.S
  )
  assert 'runs/quickstart' in program[1]
  found = {}
  exec(program[1].replace('runs/quickstart', str(workdir)), found)
  jax.tree.map(np.testing.assert_array_equal, found['params'], params)


def test_bytes_are_those_of_the_plan_and_checkpoints_are_apart(finished):
  folder, workdir, summary, params = finished
  compression = runs.settings(folder).compression
  task = tasks.load(runs.settings(folder))
  plan = gl.plan(
    optimizer.compressors(compression, task),
    params,
    **optimizer.policy(compression, task),
  )
  errors = sum(leaf.error_bytes for leaf in plan.leaves)
  assert errors > 0
  assert summary['dense_bytes'] == 8 * (plan.dense_bytes + 4)
  compressed = sum(leaf.compressed for leaf in plan.leaves)
  extra = 8 * (4 + 12 * compressed)  # Losses and diagnostics.
  assert summary['bytes_sent'] == plan.bytes_after(8) + extra
  assert summary['checkpoint_bytes'] == 2 * errors
  runs.check_bytes(runs.settings(folder), workdir, summary)


@pytest.mark.parametrize('steps', [5, 7])
def test_an_interrupted_run_gives_the_same_numbers(finished, tmp_path, steps):
  """Bit by bit, whether it stops in a compressed step or after a refresh."""
  folder, workdir, summary, params = finished
  runs.interrupt(runs.settings(folder), tmp_path, steps)
  resumed, resumed_params = runs.run(runs.settings(folder), tmp_path)
  runs.assert_equal(resumed_params, params)
  timeless = lambda x: {
    k: v for k, v in x.items() if 'second' not in k and k != 'seconds'
  }
  assert timeless(resumed) == timeless(summary)
  assert list(map(timeless, runs.lines_of(tmp_path))) == list(
    map(timeless, runs.lines_of(workdir))
  )


@pytest.mark.parametrize(
  ('before', 'after'),
  [
    (4, 1),
    pytest.param(4, 2, marks=pytest.mark.slow),
    pytest.param(2, 4, marks=pytest.mark.slow),
    pytest.param(4, 8, marks=pytest.mark.slow),
  ],
)
def test_a_run_resumes_with_another_number_of_workers(
  finished, tmp_path, before, after
):
  folder, _, _, params = finished
  of = lambda n: runs.settings(folder, mesh=Mesh(replica=n))
  if before != 4:
    _, params = runs.run(of(before), tmp_path / 'whole')
  workdir = tmp_path / 'parts'
  runs.interrupt(of(before), workdir, 6)
  summary, resumed = runs.run(of(after), workdir)
  runs.assert_close(resumed, params)

  # Steps 5 to 8 are those of `after` workers, and a single one sends nothing.
  at_4 = next(x for x in runs.lines_of(workdir) if x['step'] == 4)
  later = at_4['dense_bytes'] if after > 1 else 0
  assert at_4['dense_bytes'] > at_4['bytes_sent'] > 0
  assert summary['dense_bytes'] == at_4['dense_bytes'] + later
  assert summary['compression'] == (
    summary['dense_bytes'] / summary['bytes_sent']
  )


def test_lines_say_what_was_kept_and_how_far_a_refresh_turned(finished):
  """Steps are 0 warm-up, 1, 4 and 7 refreshes; a line every two steps."""
  _, workdir, _, _ = finished
  train = [x for x in runs.lines_of(workdir) if 'loss' in x]
  assert all(0 < x['captured_energy'] <= 1 for x in train)
  assert train[0]['captured_energy'] == 1
  kept = [x['error_to_gradient'] for x in train]
  # Steps 1 and 7 are refreshes, which leave nothing behind; 3 and 5 are not.
  assert kept[0] == kept[3] == 0
  assert min(kept[1:3]) > 0.1
  drifts = ['basis_drift' in x for x in train]
  assert drifts == [True, False, True, True]
  assert all(0 <= x.get('basis_drift', 0) <= 1 for x in train)


def test_a_finished_run_is_only_reported_again(finished):
  folder, workdir, summary, _ = finished
  before = runs.lines_of(workdir)
  assert runs.run(runs.settings(folder), workdir)[0] == summary
  assert runs.lines_of(workdir) == before


def test_a_checkpoint_of_another_configuration_is_refused(finished):
  folder, workdir, _, _ = finished
  settings = runs.settings(folder)
  data = dataclasses.replace(settings.data, seed=1)
  with pytest.raises(ValueError, match=r'data\.seed was 0 and is 1'):
    runs.run(dataclasses.replace(settings, data=data), workdir)


@dataclasses.dataclass(frozen=True)
class NewerConfig(Config):
  """A configuration that has a key more."""

  surprise: int = 1


def test_a_checkpoint_of_another_version_is_refused(finished):
  folder, workdir, _, _ = finished
  newer = NewerConfig(**vars(runs.settings(folder)))
  with pytest.raises(ValueError, match=r'another version.*keys surprise are'):
    runs.run(newer, workdir)


def test_other_data_are_refused(finished):
  folder, workdir, _, _ = finished
  settings = runs.settings(folder)
  before = tasks.load(settings)
  same_job = lambda settings, mesh, _: runs.build_job(settings, mesh, before)
  (folder / 'a.txt').write_text(runs.TEXT * 90, encoding='utf-8')
  with pytest.raises(ValueError, match=r'data\.sha256 was'):
    runs.run(settings, workdir, same_job)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mesh': Mesh(replica=64)}, 'devices, but JAX sees 8'),
    ({'mesh': Mesh(replica=3)}, 'batch_size must be a multiple of'),
    ({'optimizer': Optimizer(name='adamx')}, "nearest is 'adam"),
    ({'optimizer': Optimizer(momentum=0.9)}, 'does not apply to'),
    ({'optimizer': Optimizer('lbfgs')}, "'lbfgs' does not fit here"),
    ({'data': Data('digits')}, 'built in, images for a resnet'),
    (
      {'compression': Compression('tsr_adam', stagger=True)},
      r'compression\.stagger is only for .* other than tsr_adam',
    ),
  ],
)
def test_what_cannot_work_is_reported_before_it_starts(
  tmp_path, changes, message
):
  changes |= {'batch_size': 64} if 'replica=64' in str(changes) else {}
  if 'batch_size' in changes:
    changes['evaluation'] = Evaluation(sequences=64)
  with pytest.raises(ValueError, match=message):
    loop.run(runs.settings(tmp_path, **changes), tmp_path / 'work')
  assert not (tmp_path / 'work' / 'config.json').exists()


@pytest.mark.parametrize('every', [2, 30])
def test_gradients_that_stay_non_finite_end_the_run(tmp_path, every):
  """Before more of it is saved, however rarely a line is written."""
  broken = runs.settings(
    tmp_path,
    steps=30,
    compression=Compression('dense'),
    optimizer=Optimizer(learning_rate=1e30),
    log=Log(every=every, tensorboard=False),
  )
  with pytest.raises(FloatingPointError, match=r'lower optimizer\.learning'):
    runs.run(broken, tmp_path / 'work')
  folder = tmp_path / 'work' / 'checkpoints'
  assert {x.name for x in folder.iterdir()} == {'4', '8'}


def test_a_run_does_not_end_well_with_broken_parameters(tmp_path):
  """Without eps, Adam divides zero by zero where no gradient ever came."""
  broken = runs.settings(
    tmp_path,
    steps=2,
    compression=Compression('dense'),
    optimizer=Optimizer(eps=0.0),
    evaluation=Evaluation(every=1000, sequences=8),
  )
  with pytest.raises(FloatingPointError, match='must be finite, got'):
    loop.run(broken, tmp_path / 'work')
  assert not [*(tmp_path / 'work' / 'checkpoints').glob('[0-9]*')]
  assert not (tmp_path / 'work' / 'summary.json').exists()


def test_a_run_does_not_end_well_without_a_score(tmp_path):
  def build_job(settings, mesh, task):
    job = runs.build_job(settings, mesh, task)
    return dataclasses.replace(job, evaluate=lambda *_: {'loss': math.nan})

  run = runs.settings(tmp_path)
  with pytest.raises(FloatingPointError, match=r'held-out loss .* got nan'):
    loop.run(run, tmp_path / 'work', build_job=build_job)
  assert runs.lines_of(tmp_path / 'work')[-1]['eval_loss'] is None


@pytest.mark.parametrize(
  ('options', 'inner'),
  [
    (
      {'name': 'sgd', 'momentum': 0.9, 'nesterov': True},
      lambda rate, _: optax.sgd(rate, 0.9, nesterov=True),
    ),
    (
      {'name': 'sgd', 'weight_decay': 0.1},
      lambda rate, mask: optax.chain(
        optax.add_decayed_weights(0.1, mask), optax.sgd(rate)
      ),
    ),
    (
      {'name': 'lion', 'weight_decay': 0.1, 'clip_norm': 0.0},
      lambda rate, mask: optax.lion(rate, weight_decay=0.1, mask=mask),
    ),
  ],
)
def test_updates_are_those_of_the_optimizer_on_the_mean_gradient(
  tmp_path, options, inner
):
  settings = runs.settings(
    tmp_path, optimizer=Optimizer(**options), compression=Compression('dense')
  )
  task = tasks.load(settings)
  tx, schedule = optimizer.build(settings, 'worker', task)
  params = jax.jit(task.init)(0)
  noise = lambda x: np.random.default_rng(x.size).normal(size=(2, *x.shape))
  grads = jax.tree.map(lambda x: noise(x).astype(np.float32), params)
  mean = jax.tree.map(lambda x: np.mean(x, axis=0), grads)
  # Everything but gains decays.
  mask = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
  clip = optax.clip_by_global_norm(settings.optimizer.clip_norm or math.inf)
  expected = optax.chain(clip, inner(schedule, mask))

  def updates(tx, grads):
    state = tx.init(params)
    for _ in range(2):  # The rate of the first step is 0.
      found, state = tx.update(grads, state, params)
    return found

  of_worker = jax.vmap(
    lambda grads: updates(tx, grads), axis_name='worker', out_axes=None
  )
  runs.assert_close(
    jax.jit(of_worker)(grads), jax.jit(lambda x: updates(expected, x))(mean)
  )


@pytest.mark.slow
def test_low_precision_and_accumulation(tmp_path, capsys):
  """What the compiled program sends is counted, not what was planned."""
  low = Compression(
    rank=2, update_interval=3, error_dtype='bfloat16', factor_dtype='bfloat16'
  )
  summary = loop.run(
    runs.settings(tmp_path, steps=4, compression=low, accumulate_steps=2),
    tmp_path / 'work',
  )
  assert math.isfinite(summary['final_eval_loss'])
  # XLA widens 16-bit all-reduces on CPU, and the run says so.
  assert 'The run counts the former' in capsys.readouterr().out


def test_one_workers_nan_costs_one_step(tmp_path):
  """A rare character makes the loss of its worker NaN."""
  settings = runs.settings(tmp_path, compression=Compression(rank=2))
  rare = ord('Q')
  for name in 'abcd':  # Whichever of them is held out.
    text = (tmp_path / f'{name}.txt').read_text(encoding='utf-8')
    third = len(text) // 3
    (tmp_path / f'{name}.txt').write_text(
      text[:third] + 'Q' + text[third : 2 * third] + 'Q' + text[2 * third :]
    )
  settings = dataclasses.replace(
    settings,
    steps=40,
    evaluation=Evaluation(0, 8),
    log=Log(every=1, tensorboard=False),
  )

  def build_job(settings, mesh, task):
    loss = task.loss
    bad = lambda batch: jnp.where(jnp.any(batch == rare), jnp.nan, 1.0)
    task.loss = lambda params, batch: loss(params, batch) * bad(batch)
    return build.job(settings, mesh, task)

  _, params = runs.run(settings, tmp_path / 'work', build_job)
  lines = [x for x in runs.lines_of(tmp_path / 'work') if 'loss' in x]
  losses = np.array([x['loss'] for x in lines], float)  # NaN for null.
  skipped = [x['skipped_steps'] for x in lines]
  assert np.isnan(losses).sum() == max(skipped) > 0
  assert np.isfinite(losses[-1])
  for leaf in jax.tree.leaves(params):
    assert np.isfinite(leaf).all()
