"""Small sets of labeled sentences, and a tokenizer of a word per token."""

import numpy as np

from train import prepare
from train.data import datasets, sources

WORDS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'b', 'c', 'd')
PAIRS = [(b'a b', b'c', 1), (b'd', b'a a', 0), (b'b c d a b c', b'd', 1)]
HELD_OUT = [(b'c', b'c', 0), (b'x', b'b', 1)]
SCORES = [(b'a', 2.5), (b'b c', 0.5), (b'd', 4.0)]


def tokenizer(folder):
  """A tokenizer.json with BERT's marks; its path."""
  import tokenizers

  ids = {word: i for i, word in enumerate(WORDS)}
  model = tokenizers.models.WordLevel(ids, unk_token='[UNK]')
  whole = tokenizers.Tokenizer(model)
  whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  whole.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    pair='[CLS] $A [SEP] $B:1 [SEP]:1',
    special_tokens=[('[CLS]', 2), ('[SEP]', 3)],
  )
  whole.save(str(folder / 'tokenizer.json'))
  return str(folder / 'tokenizer.json')


def sets(root):
  """Pairs with two labels, called glue/mrpc, and scores; their folder."""
  features = datasets.library().features
  text = features.Text()
  rows = lambda keys, rows: (
    lambda: (dict(zip(keys, row, strict=True)) for row in rows)
  )
  pairs = {
    'sentence1': text,
    'sentence2': text,
    'label': features.ClassLabel(num_classes=2),
  }
  prepare.write(
    'mrpc',
    root / 'glue',
    sources.Source(
      pairs, {'train': rows(pairs, PAIRS), 'validation': rows(pairs, HELD_OUT)}
    ),
  )
  scores = {'sentence': text, 'label': np.float32}
  part = rows(scores, SCORES)
  prepare.write(
    'scores', root, sources.Source(scores, {'train': part, 'validation': part})
  )
  return str(root)
