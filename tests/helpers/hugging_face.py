"""A BERT: its files as Hugging Face has them, and its papers' formulas."""

import json
import math

import jax
import numpy as np

from train.models import bert, pretrained

CONFIG = {
  'model_type': 'bert',
  'vocab_size': 13,
  'hidden_size': 8,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 12,
  'max_position_embeddings': 7,
  'type_vocab_size': 2,
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-12,
  'pad_token_id': 0,
}
BATCH = {
  'tokens': np.array([[2, 5, 3, 7, 3], [2, 9, 3, 0, 0]], np.int32),
  'segments': np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.int32),
  'length': np.array([5, 3], np.int32),
}


def arrays(seed=0, tokens=13, width=8, inner=12, positions=7, segments=2):
  """What a file of a BERT of two layers holds, with Hugging Face's names."""
  rng = np.random.default_rng(seed)
  found = {}

  def linear(name, a, b):
    found[f'{name}.weight'] = rng.normal(0, a**-0.5, (b, a))
    found[f'{name}.bias'] = rng.normal(0, 0.2, b)

  def norm(name):
    found[f'{name}.weight'] = rng.uniform(0.5, 1.5, width)
    found[f'{name}.bias'] = rng.normal(0, 0.2, width)

  for name, rows in (
    ('word', tokens),
    ('position', positions),
    ('token_type', segments),
  ):
    table = rng.normal(0, 1, (rows, width))
    found[f'embeddings.{name}_embeddings.weight'] = table
  norm('embeddings.LayerNorm')
  for i in range(2):
    layer = f'encoder.layer.{i}'
    for name in ('self.query', 'self.key', 'self.value', 'output.dense'):
      linear(f'{layer}.attention.{name}', width, width)
    norm(f'{layer}.attention.output.LayerNorm')
    linear(f'{layer}.intermediate.dense', width, inner)
    linear(f'{layer}.output.dense', inner, width)
    norm(f'{layer}.output.LayerNorm')
  linear('pooler.dense', width, width)
  return {name: np.float32(x) for name, x in found.items()}


def write(folder, config=CONFIG, of=None, prefix=''):
  """A folder as Hugging Face has it; its path."""
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  of = arrays() if of is None else of
  named = {
    x if x.startswith('lm_head') else prefix + x: y for x, y in of.items()
  }
  from safetensors import numpy as numpy_files

  numpy_files.save_file(named, folder / 'model.safetensors')
  return str(folder)


def by_the_papers(of, batch, layers=2, heads=2, first=0):
  """BERT's formulas in float64, a sentence and a head at a time."""
  of = {name: np.float64(x) for name, x in of.items()}
  linear = lambda x, name: x @ of[f'{name}.weight'].T + of[f'{name}.bias']
  erf = np.vectorize(math.erf)
  gelu = lambda x: x * (1 + erf(x / math.sqrt(2))) / 2

  def norm(x, name):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return x * of[f'{name}.weight'] + of[f'{name}.bias']

  def attention(x, filling, name):
    query, key, value = (
      linear(x, f'{name}.self.{part}') for part in ('query', 'key', 'value')
    )
    channels = x.shape[1] // heads
    mixed = []
    for head in range(heads):
      of_head = slice(head * channels, (head + 1) * channels)
      scores = query[:, of_head] @ key[:, of_head].T / math.sqrt(channels)
      weights = np.exp(scores + np.where(filling, -1e9, 0.0)[None])
      weights /= weights.sum(-1, keepdims=True)
      mixed.append(weights @ value[:, of_head])
    return linear(np.concatenate(mixed, axis=1), f'{name}.output.dense')

  hidden = []
  for tokens, segments, length in zip(*batch.values(), strict=True):
    filling = np.arange(len(tokens)) >= length
    x = (
      of['embeddings.word_embeddings.weight'][tokens]
      + of['embeddings.position_embeddings.weight'][
        first + np.arange(len(tokens))
      ]
      + of['embeddings.token_type_embeddings.weight'][segments]
    )
    x = norm(x, 'embeddings.LayerNorm')
    for i in range(layers):
      layer = f'encoder.layer.{i}'
      mixed = attention(x, filling, f'{layer}.attention')
      x = norm(x + mixed, f'{layer}.attention.output.LayerNorm')
      inner = gelu(linear(x, f'{layer}.intermediate.dense'))
      y = linear(inner, f'{layer}.output.dense')
      x = norm(x + y, f'{layer}.output.LayerNorm')
    hidden.append(x)
  pooled = np.tanh(linear(np.stack(hidden)[:, 0], 'pooler.dense'))
  return np.stack(hidden), pooled


def loaded(folder):
  """Network and parameters of a folder."""
  found = pretrained.Pretrained(folder)
  network = bert.Network(found.sizes, outputs=3)
  params = jax.jit(network.init)(0)
  found.check(params)
  return network, found.into(params)


def assert_is(network, params, of, batch=BATCH, **options):
  """Compares all that is not filling."""
  hidden, pooled = by_the_papers(of, batch, **options)
  seen = np.arange(batch['tokens'].shape[1]) < batch['length'][:, None]
  hidden_of = jax.jit(network.hidden)
  np.testing.assert_allclose(
    np.asarray(hidden_of(params, batch))[seen], hidden[seen], atol=2e-5
  )
  expected = pooled @ np.asarray(params['head']['kernel'], np.float64)
  np.testing.assert_allclose(
    jax.jit(network.outputs)(params, batch), expected, atol=2e-5
  )
