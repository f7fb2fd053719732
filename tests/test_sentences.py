"""Are labelled sentences tokenized, cut and divided rightly?"""

import json

import numpy as np
import pytest

import labelled
from train import config
from train.data import sentences

pytest.importorskip('tensorflow_datasets')
# What other packages do on their own.
pytestmark = pytest.mark.filterwarnings('ignore')

@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  return labelled.tokenizer(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return labelled.sets(tmp_path_factory.mktemp('sets'))


@pytest.fixture
def section(tokenizer, data_dir):
  return lambda name, **changes: config.Data(**{
      'source': name, 'data_dir': data_dir, 'tokenizer': tokenizer,
      'sequence_length': 8, **changes,
  })  # fmt: skip


def rows(batch):
  """Token by token as words, with the segment behind those of the second."""
  told = []
  for tokens, segments, length in zip(
      batch['tokens'], batch['segments'], batch['length'], strict=True
  ):
    assert not tokens[length:].any() and not segments[length:].any()
    told.append(' '.join(
        labelled.WORDS[t] + "'" * int(s)
        for t, s in zip(tokens[:length], segments[:length], strict=True)
    ))  # fmt: skip
  return told


def test_a_pair_with_its_marks(section):
  data = sentences.load(section('glue/mrpc'))
  assert data.classes == 2 and data.vocab_size == len(labelled.WORDS)
  held_out = data.evaluation(0)
  told = dict(zip(rows(held_out), held_out['label'].tolist(), strict=True))
  assert told == {
      "[CLS] c [SEP] c' [SEP]'": 0, "[CLS] [UNK] [SEP] b' [SEP]'": 1
  }  # fmt: skip
  assert len(data.training['label']) == 3


def test_the_longer_sentence_is_cut(section):
  data = sentences.load(section('glue/mrpc'))
  assert "[CLS] b c d a [SEP] d' [SEP]'" in rows(data.training)
  assert data.training['tokens'].shape == (3, 8)


def test_a_pair_as_roberta_has_it(section, tmp_path):
  """Bytes for words, two marks between sentences, one kind of them."""
  import tokenizers

  letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  ids = {x: i for i, x in enumerate(['<s>', '<pad>', '</s>', *letters])}
  whole = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
  whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
  whole.post_processor = tokenizers.processors.RobertaProcessing(
      ('</s>', 2), ('<s>', 0)
  )
  path = str(tmp_path / 'tokenizer.json')
  whole.save(path)
  data = sentences.load(section('glue/mrpc', tokenizer=path))
  held_out = data.evaluation(0)
  row = held_out['tokens'][held_out['label'] == 0][0]
  space, c = ids['Ġ'], ids['c']
  assert row.tolist() == [0, space, c, 2, 2, space, c, 2]
  assert not held_out['segments'].any()
  assert data.training['length'].max() == 8, 'cut, with its marks'


def test_a_score_is_a_number(section):
  data = sentences.load(section('scores'))
  assert data.classes == 0
  held_out = data.evaluation(0)
  assert held_out['label'].dtype == np.float32
  told = dict(zip(rows(held_out), held_out['label'].tolist(), strict=True))
  assert told == {
      '[CLS] a [SEP]': 2.5, '[CLS] b c [SEP]': 0.5, '[CLS] d [SEP]': 4.0
  }  # fmt: skip


def test_every_process_has_its_part_of_the_batch(section):
  data = sentences.load(section('glue/mrpc'))
  whole = next(data.train(2))
  parts = [next(data.train(2, i, 2)) for i in range(2)]
  for key, array in whole.items():
    both = np.concatenate([part[key] for part in parts])
    np.testing.assert_array_equal(both, array)
  assert json.dumps(data.train(2).get_state())


def test_what_there_is_not_is_said(section):
  with pytest.raises(ValueError, match=r'tokenizer\.json, .* got .bytes.'):
    sentences.load(section('glue/mrpc', tokenizer='bytes'))
  with pytest.raises(ValueError, match=r'asks for 3 held-out .* are 2; 0'):
    sentences.load(section('glue/mrpc')).evaluation(3)
