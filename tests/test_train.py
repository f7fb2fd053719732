"""Does a run do what it says, and go on exactly where it stopped?"""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest
import workers

import greedylore_jax as gl
from train import config
from train import loop
from train import optimizer

TEXT = 'the quick brown fox jumps over the lazy dog, again and again. '


def settings(folder, **changes):
  """A run of seconds: 8 steps of a tiny model on 4 workers."""
  files = tuple(str(folder / f'{name}.txt') for name in 'abcd')
  for i, file in enumerate(files):
    pathlib.Path(file).write_text(TEXT * (40 + i), encoding='utf-8')
  start = config.Config(
      steps=8,
      batch_size=8,
      data=config.Data(
          source='files', files=files, sequence_length=16, eval_fraction=0.2
      ),
      model=config.Model(width=16, layers=1, heads=2, feed_forward=24),
      compression=config.Compression(
          rank=2, update_interval=3, start_step=1, probes=2
      ),
      mesh=config.Mesh(replica=4),
      evaluation=config.Evaluation(every=4, sequences=16),
      checkpoint=config.Checkpoint(every=4),
      log=config.Log(every=2, tensorboard=False),
  )
  return dataclasses.replace(start, **changes)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """An uninterrupted run: its folder, workdir, summary and parameters."""
  folder = tmp_path_factory.mktemp('run')
  with_parameters = _recording()
  summary = loop.run(settings(folder), folder / 'work')
  return folder, folder / 'work', summary, with_parameters()


def _recording():
  """Remembers the parameters that the next run ends with."""
  ends = []
  original = loop._summary

  def remember(run_settings, job, now, journal):
    ends.append(jax.tree.map(np.asarray, now.params))
    return original(run_settings, job, now, journal)

  loop._summary = remember

  def last():
    loop._summary = original
    return ends[-1]

  return last


def lines_of(workdir):
  text = (workdir / 'metrics.jsonl').read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_leaves_what_it_promises(finished):
  folder, workdir, summary, _ = finished
  assert json.loads((workdir / 'summary.json').read_text()) == summary
  assert summary['steps'] == 8
  assert summary['num_workers'] == 4
  assert summary['compressor'] == 'greedylore'
  for name in ('final_loss', 'final_eval_loss', 'seconds', 'compression'):
    assert math.isfinite(summary[name])
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved == json.loads(json.dumps(dataclasses.asdict(settings(folder))))
  train = [x for x in lines_of(workdir) if 'loss' in x]
  assert [x['step'] for x in train] == [2, 4, 6, 8]
  for key in (
      'loss', 'learning_rate', 'seconds', 'tokens_per_second', 'bytes_sent',
      'dense_bytes',
  ):  # fmt: skip
    assert all(math.isfinite(x[key]) for x in train), key
  assert [x['step'] for x in lines_of(workdir) if 'eval_loss' in x] == [4, 8]
  assert (workdir / 'loss.png').stat().st_size > 10_000


def test_bytes_are_those_of_the_plan_losses_and_checkpoints_included(finished):
  folder, workdir, summary, params = finished
  compression = settings(folder).compression
  plan = gl.plan(
      optimizer.compressor(compression), params,
      **optimizer.policy(compression, _matrices),
  )  # fmt: skip
  errors = sum(leaf.error_bytes for leaf in plan.leaves)
  assert errors > 0
  assert summary['dense_bytes'] == 8 * (plan.dense_bytes + 4)
  assert summary['bytes_sent'] == plan.bytes_after(8) + 8 * 4 + 2 * errors
  last = [x for x in lines_of(workdir) if 'loss' in x][-1]
  assert last['bytes_sent'] == plan.bytes_after(8) + 8 * 4 + errors


def _matrices(params):
  from train import models

  return models.matrix_dimension_numbers(params)


class Interrupted(Exception):
  """Stands for a power cut."""


@pytest.fixture
def interrupt(monkeypatch):
  """Makes the next run fall over after some steps."""
  original = loop._advance

  def after(steps):
    def advance(job, now, batches):
      if now.step == steps:
        raise Interrupted
      return original(job, now, batches)

    monkeypatch.setattr(loop, '_advance', advance)

  yield after
  monkeypatch.setattr(loop, '_advance', original)


@pytest.mark.parametrize('steps', [5, 7])
def test_an_interrupted_run_gives_the_same_numbers(
    finished, interrupt, monkeypatch, tmp_path, steps
):
  """Bit by bit, whether it stops in a compressed step or after a refresh."""
  folder, workdir, summary, params = finished
  interrupt(steps)
  with pytest.raises(Interrupted):
    loop.run(settings(folder), tmp_path)
  monkeypatch.undo()
  last = _recording()
  resumed = loop.run(settings(folder), tmp_path)
  for a, b in zip(
      jax.tree.leaves(last()), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  timeless = lambda x: {
      k: v for k, v in x.items() if 'second' not in k and k != 'seconds'
  }
  assert timeless(resumed) == timeless(summary)
  assert list(map(timeless, lines_of(tmp_path))) == list(
      map(timeless, lines_of(workdir))
  )


@pytest.mark.parametrize('workers_after', [1, 2, 8])
def test_a_run_goes_on_with_another_number_of_workers(
    finished, interrupt, monkeypatch, tmp_path, workers_after
):
  folder, _, _, params = finished
  interrupt(6)
  with pytest.raises(Interrupted):
    loop.run(settings(folder), tmp_path)
  monkeypatch.undo()
  last = _recording()
  loop.run(
      settings(folder, mesh=config.Mesh(replica=workers_after)), tmp_path
  )
  for a, b in zip(
      jax.tree.leaves(last()), jax.tree.leaves(params), strict=True
  ):
    # Adam divides by what may be close to zero, so rounding is amplified.
    assert workers.relative(a, b) < 10 * workers.FLOAT32_ROUNDING


def test_a_finished_run_is_only_reported_again(finished):
  folder, workdir, summary, _ = finished
  before = lines_of(workdir)
  assert loop.run(settings(folder), workdir) == summary
  assert lines_of(workdir) == before


def test_a_checkpoint_of_another_configuration_is_refused(finished):
  folder, workdir, _, _ = finished
  other = settings(folder, compression=config.Compression(rank=3))
  with pytest.raises(ValueError, match=r'compression\.rank was 2 and is 3'):
    loop.run(other, workdir)


def test_other_data_are_refused(finished):
  folder, workdir, _, _ = finished
  same_files = settings(folder)
  (folder / 'a.txt').write_text(TEXT * 90, encoding='utf-8')
  with pytest.raises(ValueError, match=r'data\.sha256 was'):
    loop.run(same_files, workdir)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'mesh': config.Mesh(replica=64)}, 'as many devices, but JAX sees 8'),
        ({'mesh': config.Mesh(replica=3)}, 'batch_size must be a multiple of'),
        ({'optimizer': config.Optimizer(name='adamx')}, "nearest is 'adam"),
        ({'optimizer': config.Optimizer(momentum=0.9)}, 'does not apply to'),
    ],
)
def test_what_cannot_work_is_said_before_it_starts(tmp_path, changes, message):
  changes |= {'batch_size': 64} if 'replica=64' in str(changes) else {}
  if 'batch_size' in changes:
    changes['evaluation'] = config.Evaluation(sequences=64)
  with pytest.raises(ValueError, match=message):
    loop.run(settings(tmp_path, **changes), tmp_path / 'work')
  assert not (tmp_path / 'work' / 'config.json').exists()


def test_gradients_that_stay_non_finite_end_the_run(tmp_path):
  broken = settings(
      tmp_path, steps=30, optimizer=config.Optimizer(learning_rate=1e30)
  )
  with pytest.raises(FloatingPointError, match=r'lower optimizer\.learning'):
    loop.run(broken, tmp_path / 'work')


@pytest.mark.parametrize(
    'options',
    [
        {'name': 'sgd', 'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.1},
        {'name': 'lion', 'weight_decay': 0.1, 'clip_norm': 0.0},
    ],
)
def test_other_optimizers(tmp_path, options):
  summary = loop.run(
      settings(
          tmp_path, steps=2, optimizer=config.Optimizer(**options),
          evaluation=config.Evaluation(every=0, sequences=8),
      ),
      tmp_path / 'work',
  )  # fmt: skip
  assert math.isfinite(summary['final_loss'])


def test_low_precision_and_accumulation(tmp_path, capsys):
  """What the compiled program sends is counted, not what was planned."""
  low = config.Compression(
      rank=2, update_interval=3, error_dtype='bfloat16', factor_dtype='bfloat16'
  )
  summary = loop.run(
      settings(tmp_path, steps=4, compression=low, accumulate_steps=2),
      tmp_path / 'work',
  )
  assert math.isfinite(summary['final_eval_loss'])
  # XLA widens 16-bit all-reduces on CPU, and the run says so.
  assert 'Counted is what is read' in capsys.readouterr().out
