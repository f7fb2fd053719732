"""Is the LLaMA the one of the formulas, and can it be traced everywhere?"""

import dataclasses
import functools
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

from train.config.schema import Model
from train.models import llama, llama_rules, rules

VOCAB = 31
TINY = Model(width=16, layers=2, heads=2, feed_forward=24)
MATRIX = optax.contrib.MuonDimensionNumbers(0, 1)

_flat = functools.partial(traverse_util.flatten_dict, sep='/')


def _batch(sequences=2, columns=13):
  key = jax.random.key(7)
  return jax.random.randint(key, (sequences, columns), 0, VOCAB)


def _shapes(model, vocab_size=VOCAB):
  return jax.eval_shape(functools.partial(llama.init, model, vocab_size), 0)


def _large_params(model):
  """Far from init, where attention is sharp and errors show."""
  params = llama.init(model, VOCAB, seed=3)
  noise = optax.tree.random_like(jax.random.key(4), params)
  return jax.tree.map(lambda x, y: x + 0.3 * y, params, noise)


def _assert_close(actual, expected):
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, actual, expected)


def _value_and_grad(model, params, batch):
  loss_fn = llama.make_loss(model, VOCAB)
  return jax.jit(jax.value_and_grad(loss_fn))(params, batch)


# Is it the model?


def _oracle_norm(x, gain):
  return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * gain


def _oracle_turned(x):
  """[time, channels] -> [time, channels / 2] complex, turned by its time."""
  half = x.shape[1] // 2
  speeds = 10000.0 ** (-np.arange(half) / half)
  turns = np.exp(1j * np.arange(len(x))[:, None] * speeds[None, :])
  return (x[:, :half] + 1j * x[:, half:]) * turns


def _oracle_attention(x, p, heads):
  time, channels = len(x), x.shape[1] // heads
  mixed = np.zeros_like(x)
  for head in range(heads):
    own = slice(head * channels, (head + 1) * channels)
    query = _oracle_turned(x @ p['query'][:, own])
    key = _oracle_turned(x @ p['key'][:, own])
    value = x @ p['value'][:, own]
    for t in range(time):
      scores = np.real(key[: t + 1].conj() @ query[t]) / np.sqrt(channels)
      weights = np.exp(scores) / np.sum(np.exp(scores))
      mixed[t, own] = weights @ value[: t + 1]
  return mixed @ p['output']


def _oracle_losses(params, sequence, model):
  """[time + 1] -> cross-entropies [time], for one sequence."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = p['embedding'][sequence[:-1]]
  for i in range(model.layers):
    block = p['blocks'][str(i)]
    y = _oracle_norm(x, block['attention_norm'])
    x = x + _oracle_attention(y, block['attention'], model.heads)
    y, f = _oracle_norm(x, block['feed_forward_norm']), block['feed_forward']
    gate = y @ f['gate']
    x = x + (gate / (1 + np.exp(-gate)) * (y @ f['up'])) @ f['down']
  logits = _oracle_norm(x, p['norm']) @ p['head']
  targets = logits[np.arange(len(logits)), sequence[1:]]
  return np.log(np.sum(np.exp(logits), axis=-1)) - targets


# Eleven layers, as '10' sorts before '2'.
@pytest.mark.parametrize('layers', [1, 11])
def test_loss_is_the_oracles(layers):
  model = dataclasses.replace(TINY, layers=layers)
  params, batch = _large_params(model), _batch()
  params['embedding'] /= 100  # So small that the eps of the first norm counts.
  rows = [_oracle_losses(params, np.asarray(row), model) for row in batch]
  loss = jax.jit(llama.make_loss(model, VOCAB))(params, batch)
  np.testing.assert_allclose(loss, np.mean(rows), rtol=1e-5)


def test_shapes_and_types():
  square, up = (16, 16), (16, 24)
  block = {
    'attention': dict.fromkeys(('query', 'key', 'value', 'output'), square),
    'attention_norm': (16,),
    'feed_forward': {'gate': up, 'up': up, 'down': (24, 16)},
    'feed_forward_norm': (16,),
  }
  ends = {'embedding': (VOCAB, 16), 'norm': (16,), 'head': (16, VOCAB)}
  expected = ends | {'blocks': {'0': block, '1': block}}
  assert jax.tree.map(jnp.shape, llama.init(TINY, VOCAB, 0)) == expected
  for dtype in ('float32', 'bfloat16', 'float16'):
    model = dataclasses.replace(TINY, dtype=dtype)
    shapes = _shapes(model)
    logits = jax.eval_shape(llama.make_apply(model, VOCAB), shapes, _batch())
    loss = jax.eval_shape(llama.make_loss(model, VOCAB), shapes, _batch())
    assert (logits.shape, loss.shape) == ((2, 13, VOCAB), ())
    leaves = jax.tree.leaves((shapes, logits, loss))
    assert all(x.dtype == jnp.float32 for x in leaves)


def test_init_has_the_stated_deviations():
  model = Model(width=128, layers=2, heads=2, feed_forward=344)
  expected = {'norm': 0.0, 'output': 0.02 / 2, 'down': 0.02 / 2}
  for name, x in _flat(llama.init(model, 256, seed=0)).items():
    deviation = expected.get(re.split('[/_]', name)[-1], 0.02)
    np.testing.assert_allclose(np.std(x), deviation, rtol=0.03, err_msg=name)


def test_seed_decides_the_parameters():
  first, same, other = (llama.init(TINY, VOCAB, s) for s in (0, 0, 1))
  assert jax.tree.all(jax.tree.map(jnp.array_equal, first, same))
  assert not jnp.array_equal(first['head'], other['head'])


def test_loss_at_init_is_that_of_guessing():
  params, batch = llama.init(TINY, VOCAB, 0), _batch(sequences=64)
  loss = jax.jit(llama.make_loss(TINY, VOCAB))(params, batch)
  np.testing.assert_allclose(loss, np.log(VOCAB), atol=0.01)


def test_no_logit_sees_a_later_token():
  params, tokens = _large_params(TINY), _batch()
  apply = jax.jit(llama.make_apply(TINY, VOCAB))
  before = apply(params, tokens)
  for t in (1, 6, 12):
    changed = tokens.at[:, t].set((tokens[:, t] + 1) % VOCAB)
    after = apply(params, changed)
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    assert jnp.all(jnp.any(after[:, t:] != before[:, t:], axis=-1))


def test_scores_depend_on_relative_positions_only():
  time, channels = 20, 8
  pair = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, channels))
  query, key = (llama.rotate(jnp.tile(x, (time, 1))) for x in pair)
  scores = (query @ key.mT)[0, 0]
  for lag in range(-time + 1, time):
    line = np.diagonal(scores, lag)
    np.testing.assert_allclose(line, np.full_like(line, line[0]), atol=1e-5)
  assert jnp.all(jnp.abs(jnp.diff(scores[0])) > 1e-3)


# Do the knobs of computation leave the numbers alone?


def test_bfloat16_is_close_to_float32():
  params, batch = _large_params(TINY), _batch()
  loss, grads = _value_and_grad(TINY, params, batch)
  model_16 = dataclasses.replace(TINY, dtype='bfloat16')
  loss_16, grads_16 = _value_and_grad(model_16, params, batch)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(grads_16))
  np.testing.assert_allclose(loss_16, loss, rtol=0.02)
  error = optax.tree.norm(optax.tree.sub(grads_16, grads))
  assert 0 < error < 0.1 * optax.tree.norm(grads)


def test_remat_gives_the_same_gradients():
  params, batch = _large_params(TINY), _batch()
  model = dataclasses.replace(TINY, remat=True)
  recomputed = _value_and_grad(model, params, batch)
  _assert_close(recomputed, _value_and_grad(TINY, params, batch))
  text = str(jax.make_jaxpr(llama.make_loss(model, VOCAB))(params, batch))
  assert text.count('remat') == model.layers


# Can it be trained, everywhere?


def test_adam_fits_a_repeated_batch():
  params, batch = llama.init(TINY, VOCAB, 0), _batch()
  tx = optax.adam(1e-2)
  opt_state, losses = tx.init(params), []
  step = jax.jit(jax.value_and_grad(llama.make_loss(TINY, VOCAB)))
  for _ in range(20):
    loss, grads = step(params, batch)
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    losses.append(loss)
  assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize('remat', [False, True])
def test_local_gradients_inside_shard_map_are_those_of_vmap(remat):
  model = dataclasses.replace(TINY, remat=remat)
  grad_fn = jax.value_and_grad(llama.make_loss(model, VOCAB))
  devices = jax.devices()[:2]
  params, batch = _large_params(model), _batch(sequences=2 * len(devices))

  def local(params, batch):
    params = jax.lax.pcast(params, 'data', to='varying')
    results = grad_fn(params, batch)
    for x in jax.tree.leaves(results):
      assert jax.typeof(x).manual_axis_type.varying == {'data'}
    return jax.tree.map(lambda x: x[None], results)

  per_worker = jax.shard_map(
    local,
    mesh=jax.sharding.Mesh(np.array(devices), ('data',)),
    in_specs=(PartitionSpec(), PartitionSpec('data')),
    out_specs=PartitionSpec('data'),
    check_vma=True,
  )
  copies = jax.tree.map(lambda x: jnp.stack([x] * len(devices)), params)
  parts = batch.reshape(len(devices), 2, -1)
  expected = jax.jit(jax.vmap(grad_fn))(copies, parts)
  _assert_close(jax.jit(per_worker)(params, batch), expected)


# Which parameters are there? (The sizes are those of GaLore, arXiv:2403.03507.)


@pytest.mark.parametrize(
  ('width', 'feed_forward', 'heads', 'layers'),
  [
    (512, 1376, 8, 8),
    (768, 2048, 12, 12),
    (1024, 2736, 16, 24),
    (2048, 5461, 32, 24),
  ],
)
def test_parameter_count(width, feed_forward, heads, layers):
  model = Model(
    width=width, layers=layers, heads=heads, feed_forward=feed_forward
  )
  block = 4 * width**2 + 3 * width * feed_forward + 2 * width
  count = sum(x.size for x in jax.tree.leaves(_shapes(model, 32000)))
  assert count == 2 * 32000 * width + width + layers * block


@pytest.mark.parametrize('embeddings', [False, True])
def test_rules_cover_every_parameter(embeddings):
  shapes = _shapes(TINY)
  found = _flat(llama_rules.matrix_dimension_numbers(shapes, embeddings))
  assert found.keys() == _flat(shapes).keys()
  for name, value in found.items():
    table = name in ('embedding', 'head')
    dense = name.endswith('norm') or (table and not embeddings)
    assert value == (None if dense else MATRIX), name


def test_uncovered_parameter_is_named():
  params = llama.init(TINY, VOCAB, 0)
  params['blocks']['1']['adapter'] = jnp.zeros((16, 2))
  with pytest.raises(ValueError, match="'blocks/1/adapter'"):
    llama_rules.matrix_dimension_numbers(params)


def test_first_matching_rule_wins_and_matches_the_whole_path():
  params = {'a': {'bias': 0, 'kernel': 0}, 'bias': 0}
  found = rules.by_path([('bias', 1), ('.*bias', 2), ('.*', 3)], params)
  assert found == {'a': {'bias': 2, 'kernel': 3}, 'bias': 1}


# Are mistakes named?


@pytest.mark.parametrize(
  ('shape', 'dtype'),
  [((2, 1), 'int32'), ((13,), 'int32'), ((2, 13), 'float32')],
)
def test_wrong_batch_is_refused(shape, dtype):
  with pytest.raises(ValueError, match='a batch is integers'):
    llama.make_loss(TINY, VOCAB)({}, jnp.zeros(shape, dtype))


def test_empty_vocabulary_is_refused():
  with pytest.raises(ValueError, match='vocab_size must be at least 1'):
    llama.init(TINY, 0, seed=0)


@pytest.mark.parametrize('column', [0, -1])
def test_token_outside_the_vocabulary_gives_nan(column):
  params, batch = llama.init(TINY, VOCAB, 0), _batch()
  batch = batch.at[0, column].set(VOCAB)
  assert jnp.isnan(jax.jit(llama.make_loss(TINY, VOCAB))(params, batch))
