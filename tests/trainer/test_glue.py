"""Is an encoder trained from where it was, and scored as GLUE does?"""

import dataclasses
import math
import shutil

import jax
import numpy as np
import pytest

import hugging_face
import labeled
import runs
from train import tasks
from train.config.schema import (
  Compression,
  Config,
  Data,
  Evaluation,
  Log,
  Mesh,
  Model,
)
from train.run import loop

pytest.importorskip('tensorflow_datasets')
# What other packages do on their own.
pytestmark = pytest.mark.filterwarnings('ignore')
LABEL = np.array([1, 0, 1, 1, 0], np.int32)
GUESS = np.array([1, 0, 0, 1, 1])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Small sets, their tokenizer, and an encoder."""
  folder = tmp_path_factory.mktemp('glue')
  labeled.sets(folder)
  labeled.tokenizer(folder)
  hugging_face.write(folder / 'bert', of=hugging_face.arrays())
  return folder


def settings(folder, tmp_path, source='glue/mrpc', **changes):
  start = dataclasses.replace(
    runs.settings(tmp_path),
    batch_size=4,
    data=Data(
      source=source,
      data_dir=str(folder),
      sequence_length=6,
      tokenizer=str(folder / 'tokenizer.json'),
    ),
    model=Model(name='bert', pretrained=str(folder / 'bert'), dropout=0.1),
    evaluation=Evaluation(every=4, sequences=0),
    # The one that compiles fastest, as is the test's business.
    compression=Compression(method='powersgd', rank=2, start_step=1),
    mesh=Mesh(replica=2),
    log=Log(every=2, tensorboard=False, diagnostics=False),
  )
  return dataclasses.replace(start, **changes)


@pytest.mark.slow
def test_an_encoder_is_fine_tuned_and_resumes(folder, tmp_path):
  whole = loop.run(settings(folder, tmp_path), tmp_path / 'whole')
  lines = runs.lines_of(tmp_path / 'whole')
  held_out = [x for x in lines if 'eval_loss' in x]
  assert [x['step'] for x in held_out] == [4, 8]
  for name in ('loss', 'accuracy', 'f1'):
    assert whole[f'final_eval_{name}'] == held_out[-1][f'eval_{name}']
  assert 0 < whole['bytes_sent'] < whole['dense_bytes']
  runs.interrupt(settings(folder, tmp_path), tmp_path / 'again', 6)
  # The run resumes although the encoder has moved.
  shutil.copytree(folder / 'bert', tmp_path / 'bert')
  moved = Model(name='bert', pretrained=str(tmp_path / 'bert'), dropout=0.1)
  again = loop.run(settings(folder, tmp_path, model=moved), tmp_path / 'again')
  for key in ('final_loss', 'final_eval_loss', 'final_eval_f1'):
    assert again[key] == whole[key], key
  # A checkpoint refuses data of another description.
  description_of = lambda model: (
    tasks.load(settings(folder, tmp_path, model=model)).description
  )
  was = description_of(moved)
  assert was['pretrained'].startswith('bert ')
  hugging_face.write(tmp_path / 'bert', of=hugging_face.arrays(seed=1))
  is_now = description_of(moved)
  assert {x for x in was if was[x] != is_now[x]} == {'pretrained'}


def test_it_begins_with_what_is_pre_trained(folder, tmp_path):
  task = tasks.load(settings(folder, tmp_path))
  fresh = jax.jit(lambda: task.init(0))()
  params = task.start(fresh)
  of = hugging_face.arrays()
  np.testing.assert_array_equal(
    params['layers']['1']['feed_forward']['up']['kernel'],
    of['encoder.layer.1.intermediate.dense.weight'].T,
  )
  np.testing.assert_array_equal(
    params['head']['kernel'], fresh['head']['kernel']
  )
  # From nothing, with the sizes of the configuration.
  model = Model(name='bert', width=4, layers=1, heads=2, feed_forward=6)
  task = tasks.load(settings(folder, tmp_path, model=model))
  params = task.init(0)
  assert params['embedding']['token'].shape == (len(labeled.WORDS), 4)
  assert task.start(params) is params


def test_classes_are_scored_as_glue_does(folder, tmp_path):
  """Of five, three are right: 2 true, 1 false positive, 1 false negative."""
  logits = np.where(np.eye(2)[GUESS] > 0, math.log(3), 0.0).astype(np.float32)
  task = tasks.load(settings(folder, tmp_path))
  found = task.score(logits, {'label': LABEL})
  right, wrong = math.log(4 / 3), math.log(4)
  assert found['loss'] == pytest.approx((3 * right + 2 * wrong) / 5)
  assert found['accuracy'] == pytest.approx(3 / 5)
  assert found['f1'] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
  task.description['corpus'] = 'glue/cola/2.0.0'
  found = task.score(logits, {'label': LABEL})
  assert [*found] == ['loss', 'matthews']
  root = math.sqrt((2 + 1) * (2 + 1) * (1 + 1) * (1 + 1))
  assert found['matthews'] == pytest.approx((2 * 1 - 1 * 1) / root)
  always_one = np.float32([[0, 1]] * 5)
  assert task.score(always_one, {'label': LABEL})['matthews'] == 0
  task.description['corpus'] = 'glue/sst2/2.0.0'
  assert [*task.score(logits, {'label': LABEL})] == ['loss', 'accuracy']


def test_scores_are_correlated(folder, tmp_path):
  model = Model(name='bert', pretrained=str(folder / 'bert'))
  task = tasks.load(settings(folder, tmp_path, source='scores', model=model))
  label = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
  guess = np.array([[0.5], [1.0], [4.0], [3.0]], np.float32)
  found = task.score(guess, {'label': label})
  assert found['loss'] == pytest.approx((0.25 + 0 + 4 + 4) / 4)
  # Ranks 1 2 4 3 for 1 2 3 4: one minus six times two over 4 (4 * 4 - 1).
  assert found['spearman'] == pytest.approx(1 - 6 * 2 / 60)
  pearson = np.corrcoef(guess[:, 0], label)[0, 1]
  assert found['pearson'] == pytest.approx(pearson)
  assert task.score(0 * guess, {'label': label})['pearson'] == 0
  batch = task.held_out(0)
  params = task.start(jax.jit(lambda: task.init(0))())
  outputs = np.asarray(jax.jit(task.outputs)(params, (), batch))
  loss = float(jax.jit(task.loss)(params, batch))
  assert task.score(outputs, batch)['loss'] == pytest.approx(loss, rel=1e-5)


def test_what_does_not_fit_is_reported(folder, tmp_path):
  load = lambda **changes: tasks.load(settings(folder, tmp_path, **changes))
  data = settings(folder, tmp_path).data
  with pytest.raises(ValueError, match=r'up to 7 tokens, got .*length=8'):
    load(data=dataclasses.replace(data, sequence_length=8))
  few = hugging_face.CONFIG | {'vocab_size': 7}
  hugging_face.write(tmp_path / 'few', few, hugging_face.arrays(tokens=7))
  model = Model(name='bert', pretrained=str(tmp_path / 'few'))
  with pytest.raises(ValueError, match=r'knows 7 tokens .* makes 8 and 2'):
    load(model=model)
  with pytest.raises(ValueError, match=r"pretrained is only for .* 'bert'"):
    Config(model=Model(pretrained='x'))
  with pytest.raises(ValueError, match=r'model.dropout must be below 1'):
    Model(name='bert', dropout=1.0)
  with pytest.raises(ValueError, match=r'must be a multiple of model.heads'):
    Model(name='bert', width=5, heads=2)
