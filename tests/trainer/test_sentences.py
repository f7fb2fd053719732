"""Are labeled sentences tokenized, cut and divided rightly?"""

import gzip
import json

import numpy as np
import pytest

import labeled
from train import prepare
from train.config.schema import Data
from train.data import datasets, sentences

pytest.importorskip('tensorflow_datasets')
# What other packages do on their own.
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  return labeled.tokenizer(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return labeled.sets(tmp_path_factory.mktemp('sets'))


@pytest.fixture
def section(tokenizer, data_dir):
  return lambda name, **changes: Data(
    **{
      'source': name,
      'data_dir': data_dir,
      'tokenizer': tokenizer,
      'sequence_length': 8,
      **changes,
    }
  )


def rows(batch):
  """Token by token as words, with the segment behind those of the second."""
  found = []
  for tokens, segments, length in zip(
    batch['tokens'], batch['segments'], batch['length'], strict=True
  ):
    assert not tokens[length:].any() and not segments[length:].any()
    found.append(
      ' '.join(
        labeled.WORDS[t] + "'" * int(s)
        for t, s in zip(tokens[:length], segments[:length], strict=True)
      )
    )
  return found


def test_a_pair_with_its_marks(section):
  data = sentences.load(section('glue/mrpc'))
  assert data.classes == 2 and data.vocab_size == len(labeled.WORDS)
  held_out = data.evaluation(0)
  labels = dict(zip(rows(held_out), held_out['label'].tolist(), strict=True))
  assert labels == {
    "[CLS] c [SEP] c' [SEP]'": 0,
    "[CLS] [UNK] [SEP] b' [SEP]'": 1,
  }
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
  labels = dict(zip(rows(held_out), held_out['label'].tolist(), strict=True))
  assert labels == {
    '[CLS] a [SEP]': 2.5,
    '[CLS] b c [SEP]': 0.5,
    '[CLS] d [SEP]': 4.0,
  }


def test_every_process_has_its_part_of_the_batch(section):
  data = sentences.load(section('glue/mrpc'))
  whole = next(data.train(2))
  parts = [next(data.train(2, i, 2)) for i in range(2)]
  for key, array in whole.items():
    both = np.concatenate([part[key] for part in parts])
    np.testing.assert_array_equal(both, array)
  assert json.dumps(data.train(2).get_state())


def test_what_is_missing_is_reported(section):
  with pytest.raises(ValueError, match=r'tokenizer\.json, .* got .bytes.'):
    sentences.load(section('glue/mrpc', tokenizer='bytes'))
  with pytest.raises(ValueError, match=r'asks for 3 held-out .* are 2; 0'):
    sentences.load(section('glue/mrpc')).evaluation(3)


@pytest.mark.parametrize('length', [1, 2, 4])
def test_too_short_for_the_special_tokens(section, length):
  with pytest.raises(
    ValueError, match=(rf'must be at least 5 for the special .* got {length}')
  ):
    sentences.load(section('glue/mrpc', sequence_length=length))
  data = sentences.load(section('glue/mrpc', sequence_length=5))
  assert data.training['length'].tolist() == [5, 5, 5]
  one = sentences.load(section('scores', sequence_length=3))
  assert rows(one.evaluation(0))[1] in {f'[CLS] {x} [SEP]' for x in 'abd'}


# Your own.

TABLE = [('a b', 'no'), ('c', 'yes'), ('d', 'no'), ('b', 'yes'), ('a', 'no')]


def written(path, columns, rows):
  """Rows in the format that the path ends in."""
  if path.name.endswith('.jsonl'):
    objects = (dict(zip(columns, row, strict=True)) for row in rows)
    text = '\n'.join(map(json.dumps, objects))
  else:
    of = ',' if path.name.startswith('csv') else '\t'
    text = '\n'.join(of.join(map(str, row)) for row in (columns, *rows))
  encoded = text.encode()
  path.write_bytes(gzip.compress(encoded) if path.suffix == '.gz' else encoded)
  return str(path)


def prepared(tmp_path, tokenizer, capsys, *options, **changes):
  """What is said, and the data."""
  name = f'set{len([*tmp_path.glob("sets/*")])}'
  code = prepare.main(
    [name, '--data_dir', str(tmp_path / 'sets'), '--sentences', *options]
  )
  said = capsys.readouterr()
  assert code == 0, said.err
  divided = {'--held_out', '--eval_fraction'}.intersection(options)
  return said.out, sentences.load(
    Data(
      **{
        'source': name,
        'data_dir': str(tmp_path / 'sets'),
        'sequence_length': 8,
        'tokenizer': tokenizer,
        **({} if divided else {'eval_fraction': 0.2}),
        **changes,
      }
    )
  )


@pytest.mark.parametrize('name', ['x.tsv', 'csv.csv', 'x.jsonl', 'csv.csv.gz'])
def test_a_table_of_sentences_is_learnt_from(tmp_path, tokenizer, capsys, name):
  path = written(tmp_path / name, ('sentence', 'label'), TABLE)
  said, data = prepared(tmp_path, tokenizer, capsys, path)
  assert 'Labels: 2 classes (no, yes).\n' in said and '5 in train' in said
  assert (data.classes, len(data.held_out['label'])) == (2, 1)
  found = {
    row.removeprefix('[CLS] ').removesuffix(' [SEP]'): ('no', 'yes')[label]
    for part in (data.training, data.held_out)
    for row, label in zip(rows(part), part['label'], strict=True)
  }
  assert found == dict(TABLE)
  labels = datasets.read('set0', str(tmp_path / 'sets')).features['label']
  assert labels.names == ['no', 'yes']


def test_pairs_scores_and_parts_by_file_or_share(tmp_path, tokenizer, capsys):
  pairs = [('a', 'b', 0.5), ('c', 'd', 2), ('', 'x', 1), ('b', 'b', None)]
  train = written(tmp_path / 'train.jsonl', ('one', 'two', 'mark'), pairs)
  held = written(
    tmp_path / 'dev.tsv',
    ('one', 'mark', 'two'),
    [('c', 4, 'd'), ('d', 1, 'a'), ('b', 3, 'a')],
  )
  options = (train, '--columns', 'one', 'two', 'mark')
  said, data = prepared(
    tmp_path, tokenizer, capsys, *options, '--held_out', held
  )
  assert 'Labels: scores from 0.5 to 4.' in said
  assert 'without a sentence or a label: 2.' in said
  assert 'Held-out rows that are also training rows: 1.' in said
  assert sorted(data.training['label'].tolist()) == [0.5, 2.0]
  held_out = data.evaluation(0)
  labels = dict(zip(rows(held_out), held_out['label'].tolist(), strict=True))
  assert labels == {
    "[CLS] c [SEP] d' [SEP]'": 4,
    "[CLS] d [SEP] a' [SEP]'": 1,
    "[CLS] b [SEP] a' [SEP]'": 3,
  }
  stars = [('a', '3'), ('b', '1'), ('c', '3'), ('d', '10')]
  path = written(tmp_path / 'stars.tsv', ('text', 'label'), stars)
  said, data = prepared(tmp_path, tokenizer, capsys, path)
  assert '3 classes (1, 3, 10).' in said and data.classes == 3
  said, data = prepared(
    tmp_path, tokenizer, capsys, path, '--score', '--eval_fraction', '0.5'
  )
  assert '2 in train, 2 in validation' in said and data.classes == 0


@pytest.mark.parametrize(
  ('columns', 'table', 'options', 'message'),
  [
    (('a', 'b'), [('x', 'y')], (), 'got a, b: name yours with --columns'),
    (
      ('text', 'label'),
      TABLE,
      ('--columns', 'txt', 'label'),
      "must have the field 'txt', got text, label; the nearest is 'text'",
    ),
    (
      ('text', 'label'),
      TABLE,
      ('--score',),
      "line 2 must have a number as its score, got 'no'",
    ),
    (('text', 'label'), [('a', 'yes'), ('b', 'yes')], (), 'got 1 in 2 rows'),
    (
      ('text', 'label'),
      [(f'a {i}', i) for i in range(40)],
      (),
      'got 40 in 40 rows',
    ),
    (('text', 'label'), [('', 'yes')], (), 'got 1 rows without a sentence'),
    (
      ('text', 'label'),
      TABLE,
      ('--held_out', 'PAIRS'),
      "line 2 must have the field 'text', got sentence1, sentence2, label",
    ),
    (
      ('text', 'label'),
      TABLE,
      ('--held_out', 'HELD_OUT'),
      "line 2 has the label 'maybe', which no row to train on has (no, yes)",
    ),
    (
      ('text', 'label'),
      TABLE,
      ('--held_out', 'ITSELF'),
      'rows that are not trained on, but 100%',
    ),
  ],
)
def test_a_table_that_does_not_fit_is_refused(
  tmp_path, capsys, columns, table, options, message
):
  path = written(tmp_path / 'x.tsv', columns, table)
  other = written(tmp_path / 'y.tsv', columns, [('z', 'maybe')])
  pairs = written(
    tmp_path / 'z.tsv', ('sentence1', 'sentence2', 'label'), [('a', 'b', 'yes')]
  )
  places = {'HELD_OUT': other, 'ITSELF': path, 'PAIRS': pairs}
  options = [places.get(x, x) for x in options]
  code = prepare.main(
    ['x', '--data_dir', str(tmp_path), '--sentences', path, *options]
  )
  error = capsys.readouterr().err
  assert code == 2 and message in error and error.count('\n') == 1
  assert not (tmp_path / 'x').exists()
