"""Does an encoder that others have trained say what it says elsewhere?

It needs all-MiniLM-L6-v2: GREEDYLORE_MINILM names the folder of its
config.json, model.safetensors and tokenizer.json, GREEDYLORE_DATA_DIR that of
data sets, with glue/stsb. Without, these tests are skipped.
"""

import os

import jax
import numpy as np
import pytest

import hugging_face
from train.data import datasets, sentences, tokenizers

MINILM = os.environ.get('GREEDYLORE_MINILM', '')
DATA_DIR = os.environ.get('GREEDYLORE_DATA_DIR', '')
needs_minilm = pytest.mark.skipif(
  not MINILM, reason='GREEDYLORE_MINILM names no encoder'
)


@pytest.fixture(scope='module')
def minilm():
  """Network, parameters, and a function from texts to batches."""
  tokenizer = tokenizers.load(f'{MINILM}/tokenizer.json')
  batch_of = lambda texts: sentences.encoded(texts, tokenizer, 64)
  return *hugging_face.loaded(MINILM), batch_of


def embeddings(hidden_of, params, batch):
  """Means of the vectors of all tokens, of length 1: [rows, width]."""
  hidden = np.asarray(hidden_of(params, batch))
  seen = np.arange(hidden.shape[1]) < batch['length'][:, None]
  mean = (hidden * seen[:, :, None]).sum(1)
  return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@needs_minilm
def test_an_encoder_that_others_have_trained(minilm):
  """By the papers' formulas."""
  network, params, batch_of = minilm
  batch = batch_of([('A clear sky.',), ('It rains, and it will snow.',)])
  from safetensors import numpy as numpy_files

  of = numpy_files.load_file(f'{MINILM}/model.safetensors')
  hugging_face.assert_is(network, params, of, batch, layers=6, heads=12)


@needs_minilm
@pytest.mark.skipif(not DATA_DIR, reason='GREEDYLORE_DATA_DIR is not set')
@pytest.mark.filterwarnings('ignore')
def test_sentences_that_mean_the_same_are_close(minilm):
  """On STS-B's validation part; the labels of its test part are secret."""
  from scipy import stats

  network, params, batch_of = minilm
  hidden = jax.jit(network.hidden)
  pairs = list(datasets.read('glue/stsb', DATA_DIR).held_out)

  def embed(column):
    batch = batch_of([(x[column].decode(),) for x in pairs])
    found = np.empty((len(pairs), 384))
    order = np.argsort(batch['length'])
    for rows in np.split(order, len(pairs) // 100):
      # Filled up no further than the longest needs, of a few lengths.
      longest = -(-batch['length'][rows].max() // 16) * 16
      part = {
        key: x[rows, :longest] if x.ndim > 1 else x[rows]
        for key, x in batch.items()
      }
      found[rows] = embeddings(hidden, params, part)
    return found

  cosines = (embed('sentence1') * embed('sentence2')).sum(1)
  found = stats.spearmanr(cosines, [x['label'] for x in pairs]).statistic
  print(f'STS-B, validation: Spearman {found:.4f}')
  assert found == pytest.approx(0.8672, abs=5e-4)
