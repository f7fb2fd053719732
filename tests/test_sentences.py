"""Are labelled sentences tokenized, cut and divided rightly?"""

import json

import numpy as np
import pytest

from train import config
from train import prepare
from train.data import datasets
from train.data import sentences

pytest.importorskip('tensorflow_datasets')
# What other packages do on their own.
pytestmark = pytest.mark.filterwarnings('ignore')
WORDS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'b', 'c', 'd')
PAIRS = [(b'a b', b'c', 1), (b'd', b'a a', 0), (b'b c d a b c', b'd', 1)]
HELD_OUT = [(b'c', b'c', 0), (b'x', b'b', 1)]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  """A tokenizer.json of a word per token, with BERT's marks."""
  import tokenizers

  ids = {word: i for i, word in enumerate(WORDS)}
  model = tokenizers.models.WordLevel(ids, unk_token='[UNK]')
  whole = tokenizers.Tokenizer(model)
  whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  whole.post_processor = tokenizers.processors.TemplateProcessing(
      single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
      special_tokens=[('[CLS]', 2), ('[SEP]', 3)],
  )  # fmt: skip
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  whole.save(str(path))
  return str(path)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """A task of pairs with two labels, and one of sentences with a score."""
  features = datasets.library().features
  root = tmp_path_factory.mktemp('sets')
  pairs = lambda rows: lambda: (
      {'sentence1': a, 'sentence2': b, 'label': label} for a, b, label in rows
  )
  text = features.Text()
  prepare.write('pairs', root, prepare.Source(
      {'sentence1': text, 'sentence2': text,
       'label': features.ClassLabel(num_classes=2)},
      {'train': pairs(PAIRS), 'validation': pairs(HELD_OUT)},
  ))  # fmt: skip
  scores = lambda: iter([{'sentence': b'a', 'label': 2.5}])
  prepare.write('scores', root, prepare.Source(
      {'sentence': text, 'label': np.float32},
      {'train': scores, 'validation': scores},
  ))  # fmt: skip
  return str(root)


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
        WORDS[t] + "'" * int(s)
        for t, s in zip(tokens[:length], segments[:length], strict=True)
    ))  # fmt: skip
  return told


def test_a_pair_with_its_marks(section):
  data = sentences.load(section('pairs'))
  assert data.classes == 2 and data.vocab_size == len(WORDS)
  held_out = data.evaluation(0)
  told = dict(zip(rows(held_out), held_out['label'].tolist(), strict=True))
  assert told == {
      "[CLS] c [SEP] c' [SEP]'": 0, "[CLS] [UNK] [SEP] b' [SEP]'": 1
  }  # fmt: skip
  assert len(data.training['label']) == 3


def test_the_longer_sentence_is_cut(section):
  data = sentences.load(section('pairs'))
  assert "[CLS] b c d a [SEP] d' [SEP]'" in rows(data.training)
  assert data.training['tokens'].shape == (3, 8)


def test_a_score_is_a_number(section):
  data = sentences.load(section('scores'))
  assert data.classes == 0
  assert data.evaluation(1)['label'].dtype == np.float32
  assert data.evaluation(1)['label'] == [2.5]
  assert rows(data.evaluation(0)) == ['[CLS] a [SEP]']


def test_every_process_has_its_part_of_the_batch(section):
  data = sentences.load(section('pairs'))
  whole = next(data.train(2))
  parts = [next(data.train(2, i, 2)) for i in range(2)]
  for key, array in whole.items():
    both = np.concatenate([part[key] for part in parts])
    np.testing.assert_array_equal(both, array)
  assert json.dumps(data.train(2).get_state())


def test_what_there_is_not_is_said(section):
  with pytest.raises(ValueError, match=r'tokenizer\.json, .* got .bytes.'):
    sentences.load(section('pairs', tokenizer='bytes'))
  with pytest.raises(ValueError, match=r'asks for 3 held-out .* are 2; 0'):
    sentences.load(section('pairs')).evaluation(3)
