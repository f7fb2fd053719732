"""Is every task scored rightly, by the same trainer?"""

import dataclasses
import math

import jax
import numpy as np
import pytest

import runs
from train import tasks
from train.config.schema import Compression, Data, Evaluation, Model
from train.distributed import cluster
from train.run import evaluation

pytest.importorskip('sklearn')


def digits(folder, **changes):
  """Seconds of a very small network on digits."""
  start = dataclasses.replace(
    runs.settings(folder),
    batch_size=16,
    data=Data(source='digits', eval_fraction=0.02),
    model=Model(name='resnet8', width=2),
    evaluation=Evaluation(every=4, sequences=0),
    compression=Compression(rank=1, update_interval=3, start_step=1, probes=1),
  )
  return dataclasses.replace(start, **changes)


@pytest.mark.slow
def test_digits_are_learnt_by_the_trainer_and_resume(tmp_path):
  whole, _ = runs.run(digits(tmp_path), tmp_path / 'whole')
  lines = runs.lines_of(tmp_path / 'whole')
  train = [x for x in lines if 'loss' in x]
  held_out = [x for x in lines if 'eval_loss' in x]
  assert [x['step'] for x in held_out] == [4, 8]
  assert all(x['examples_per_second'] > 0 for x in train)
  assert all(0 <= x['eval_accuracy'] <= 1 for x in held_out)
  assert whole['final_eval_accuracy'] == held_out[-1]['eval_accuracy']
  assert 'final_eval_bits_per_byte' not in whole
  assert 0 < whole['bytes_sent'] < whole['dense_bytes']
  runs.interrupt(digits(tmp_path), tmp_path / 'again', 6)
  again, _ = runs.run(digits(tmp_path), tmp_path / 'again')
  for key in ('final_loss', 'final_eval_loss', 'final_eval_accuracy'):
    assert again[key] == whole[key], key


def test_evaluation_covers_all_and_nothing_twice(tmp_path):
  """36 images in batches of 16: the third is filled up and cut again."""
  settings = digits(tmp_path)
  mesh = cluster.start(settings)
  task = tasks.load(settings)
  params = jax.jit(task.init)(0)
  held_out = task.held_out(0)
  assert len(held_out['label']) == 36
  score = evaluation.build(settings, mesh, task)(params, lambda: None)
  # Statistics follow the worker's batch, so these are those of four workers.
  statistics_of, outputs_of = map(jax.jit, (task.statistics, task.outputs))
  found = [
    statistics_of(params, jax.tree.map(lambda x, i=i: x[i : i + 4], batch))
    for batch in task.calibration(16)
    for i in range(0, 16, 4)
  ]
  statistics = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *found)
  outputs = np.asarray(outputs_of(params, statistics, held_out))
  expected = task.score(outputs, held_out)
  assert score['accuracy'] == expected['accuracy']
  assert score['loss'] == pytest.approx(expected['loss'], rel=1e-5)


def test_the_score_of_images():
  score = tasks.ImageClassification.score
  label = np.array([0, 1, 1])
  logits = np.array([[0.0, 0.0], [0.0, math.log(3)], [50.0, 0.0]])
  found = score(None, logits, {'label': label})
  losses = [math.log(2), math.log(4 / 3), 50.0]
  assert found['loss'] == pytest.approx(np.mean(losses))
  assert found['accuracy'] == pytest.approx(2 / 3)


def test_a_language_model_is_scored_as_it_is_trained(tmp_path):
  settings = runs.settings(tmp_path)
  task = tasks.load(settings)
  held_out = task.held_out(16)
  params = jax.jit(task.init)(0)
  outputs = np.asarray(jax.jit(task.outputs)(params, (), held_out))
  score = task.score(outputs, held_out)
  loss = float(jax.jit(task.loss)(params, held_out['windows']))
  assert score['loss'] == pytest.approx(loss, rel=1e-6)
  assert score['bits_per_byte'] == pytest.approx(loss / math.log(2))


def test_every_held_out_text_has_its_own_score(tmp_path):
  start = runs.settings(tmp_path)
  other = tmp_path / 'other.txt'
  other.write_text('something else. ' * 20)
  data = dataclasses.replace(start.data, held_out=(str(other),))
  task = tasks.load(dataclasses.replace(start, data=data))
  alone = tasks.load(start)
  assert alone.description == {
    key: value for key, value in task.description.items() if key != 'held_out'
  }
  held_out = task.held_out(16)
  np.testing.assert_array_equal(held_out['part'], np.repeat([0, 1], 16))
  np.testing.assert_array_equal(
    held_out['windows'][:16], alone.held_out(16)['windows']
  )
  score = task.score(np.repeat(np.float32([1, 3]), 16), held_out)
  assert score['loss'] == 1 and score['other_loss'] == 3
  assert score['other_bits_per_byte'] == pytest.approx(3 / math.log(2))
  # All there is of each, in different numbers.
  whole = task.held_out(0)
  assert np.sum(whole['part'] == 1) == 320 // 17
