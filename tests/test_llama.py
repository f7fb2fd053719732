"""Is the LLaMA the one of the formulas, and can it be traced everywhere?"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from train import config, models
from train.models import llama, rules

VOCAB = 31
TINY = config.Model(width=16, layers=2, heads=2, feed_forward=24)
MATRIX = optax.contrib.MuonDimensionNumbers(0, 1)


def _batch(sequences=2, columns=13):
  key = jax.random.key(7)
  return jax.random.randint(key, (sequences, columns), 0, VOCAB)


def _large_params(model):
  """Far from init, where attention is sharp and errors show."""
  params = models.init(model, VOCAB, seed=3)
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(4), len(leaves))
  return jax.tree.unflatten(treedef, [
      x + 0.3 * jax.random.normal(key, x.shape)
      for x, key in zip(leaves, keys, strict=True)
  ])


def _paths(tree):
  leaves = jax.tree_util.tree_leaves_with_path(
      tree, is_leaf=lambda x: x is None or isinstance(x, type(MATRIX))
  )
  name = functools.partial(
      jax.tree_util.keystr, simple=True, separator='/'
  )
  return {name(path): value for path, value in leaves}


# Is it the model?


def _oracle_norm(x, gain):
  return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * gain


def _oracle_turned(x):
  """[time, channels] -> [time, channels / 2] complex, turned by its time."""
  time, channels = x.shape
  half = channels // 2
  speeds = 10000.0 ** (-2 * np.arange(half) / channels)
  turns = np.exp(1j * np.arange(time)[:, None] * speeds[None, :])
  return (x[:, :half] + 1j * x[:, half:]) * turns


def _oracle_attention(x, p, heads):
  time, width = x.shape
  channels = width // heads
  mixed = np.zeros((time, width))
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
    y = _oracle_norm(x, block['feed_forward_norm'])
    f = block['feed_forward']
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
  expected = np.mean(
      [_oracle_losses(params, np.asarray(row), model) for row in batch]
  )
  loss = jax.jit(models.make_loss(model, VOCAB))(params, batch)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_shapes_and_types():
  params = models.init(TINY, VOCAB, seed=0)
  square, up = (16, 16), (16, 24)
  block = {
      'attention': dict.fromkeys(('query', 'key', 'value', 'output'), square),
      'attention_norm': (16,),
      'feed_forward': {'gate': up, 'up': up, 'down': (24, 16)},
      'feed_forward_norm': (16,),
  }
  assert jax.tree.map(jnp.shape, params) == {
      'embedding': (VOCAB, 16),
      'blocks': {'0': block, '1': block},
      'norm': (16,),
      'head': (16, VOCAB),
  }
  assert all(type(x) is dict for x in (params, params['blocks']['0']))
  for dtype in ('float32', 'bfloat16', 'float16'):
    model = dataclasses.replace(TINY, dtype=dtype)
    shapes = jax.eval_shape(functools.partial(models.init, model, VOCAB), 0)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))
    apply = models.make_apply(model, VOCAB)
    logits = jax.eval_shape(apply, params, _batch())
    assert (logits.shape, logits.dtype) == ((2, 13, VOCAB), jnp.float32)
    loss = jax.eval_shape(models.make_loss(model, VOCAB), params, _batch())
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


def test_init_is_normal_of_the_stated_deviation():
  model = config.Model(width=128, layers=2, heads=2, feed_forward=344)
  params = models.init(model, 256, seed=0)
  deviations = {k: float(jnp.std(x)) for k, x in _paths(params).items()}
  for name, deviation in deviations.items():
    expected = 0.02
    if name.endswith('norm'):
      expected = 0.0
    elif name.endswith(('output', 'down')):
      expected = 0.02 / np.sqrt(2 * 2)
    np.testing.assert_allclose(deviation, expected, rtol=0.03, err_msg=name)


def test_seed_decides_the_parameters():
  first, same, other = (models.init(TINY, VOCAB, s) for s in (0, 0, 1))
  assert jax.tree.all(jax.tree.map(jnp.array_equal, first, same))
  assert not jnp.array_equal(first['head'], other['head'])
  blocks = first['blocks']
  key = [blocks[i]['attention']['key'] for i in ('0', '1')]
  assert not jnp.array_equal(*key)


def test_loss_at_init_is_that_of_guessing():
  params, batch = models.init(TINY, VOCAB, 0), _batch(sequences=64)
  loss = jax.jit(models.make_loss(TINY, VOCAB))(params, batch)
  np.testing.assert_allclose(loss, np.log(VOCAB), atol=0.01)


def test_no_logit_sees_a_later_token():
  params, tokens = _large_params(TINY), _batch()
  apply = jax.jit(models.make_apply(TINY, VOCAB))
  before = apply(params, tokens)
  for t in (1, 6, 12):
    changed = tokens.at[:, t].set((tokens[:, t] + 1) % VOCAB)
    after = apply(params, changed)
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    differs = jnp.any(after[:, t:] != before[:, t:], axis=-1)
    assert jnp.all(differs)


def test_scores_depend_on_relative_positions_only():
  time, channels = 20, 8
  query, key = jax.random.normal(jax.random.key(0), (2, channels))
  everywhere = (1, 1, time, channels)
  query, key = (
      llama.rotate(jnp.broadcast_to(x[None, None, None], everywhere))[0, 0]
      for x in (query, key)
  )
  scores = query @ key.T
  for lag in range(-time + 1, time):
    line = np.diagonal(scores, lag)
    np.testing.assert_allclose(line, np.full_like(line, line[0]), atol=1e-5)
  of_lags = scores[0]
  assert jnp.all(jnp.abs(jnp.diff(of_lags)) > 1e-3)


def test_rotation_keeps_lengths_and_the_first_position():
  x = jax.random.normal(jax.random.key(0), (2, 3, 20, 8))
  y = llama.rotate(x)
  norms = [jnp.linalg.norm(z, axis=-1) for z in (x, y)]
  np.testing.assert_allclose(*norms, rtol=1e-6)
  np.testing.assert_array_equal(y[:, :, 0], x[:, :, 0])


# Do the knobs of computation leave the numbers alone?


def test_bfloat16_is_close_to_float32():
  params, batch = _large_params(TINY), _batch()
  results = {}
  for dtype in ('float32', 'bfloat16'):
    loss_fn = models.make_loss(dataclasses.replace(TINY, dtype=dtype), VOCAB)
    results[dtype] = jax.jit(jax.value_and_grad(loss_fn))(params, batch)
  loss, grads = results['float32']
  loss_16, grads_16 = results['bfloat16']
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(grads_16))
  np.testing.assert_allclose(loss_16, loss, rtol=0.02)
  error = optax.tree.norm(optax.tree.sub(grads_16, grads))
  assert 0 < error < 0.1 * optax.tree.norm(grads)


def test_remat_gives_the_same_gradients():
  params, batch = _large_params(TINY), _batch()
  remat = dataclasses.replace(TINY, remat=True)
  plain, recomputed = (
      jax.jit(jax.grad(models.make_loss(model, VOCAB)))(params, batch)
      for model in (TINY, remat)
  )
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      plain,
      recomputed,
  )
  text = str(jax.make_jaxpr(models.make_loss(remat, VOCAB))(params, batch))
  assert text.count('remat') == remat.layers


# Can it be trained, everywhere?


def test_adam_fits_a_repeated_batch():
  params, batch = models.init(TINY, VOCAB, 0), _batch()
  loss_fn = models.make_loss(TINY, VOCAB)
  tx = optax.adam(1e-2)

  @jax.jit
  def step(params, opt_state):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss

  opt_state = tx.init(params)
  losses = []
  for _ in range(20):
    params, opt_state, loss = step(params, opt_state)
    losses.append(float(loss))
  assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize('remat', [False, True])
def test_local_gradients_inside_shard_map(remat):
  model = dataclasses.replace(TINY, remat=remat)
  grad_fn = jax.value_and_grad(models.make_loss(model, VOCAB))
  devices = jax.devices()[:2]
  mesh = jax.sharding.Mesh(np.array(devices), ('data',))
  params, batch = _large_params(model), _batch(sequences=2 * len(devices))
  replicated, split = PartitionSpec(), PartitionSpec('data')

  @jax.jit
  @functools.partial(
      jax.shard_map,
      mesh=mesh,
      in_specs=(replicated, split),
      out_specs=(split, split),
      check_vma=True,
  )
  def local(params, batch):
    params = jax.lax.pcast(params, 'data', to='varying')
    results = grad_fn(params, batch)
    for x in jax.tree.leaves(results):
      assert jax.typeof(x).manual_axis_type.varying == {'data'}
    return jax.tree.map(lambda x: x[None], results)

  # One row of results per worker, none of them averaged.
  per_worker = batch.reshape(len(devices), 2, -1)
  expected = jax.jit(jax.vmap(grad_fn, (None, 0)))(params, per_worker)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      local(params, batch),
      expected,
  )


def test_vmap_over_parameters():
  several = [_large_params(TINY), models.init(TINY, VOCAB, 0)]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several)
  loss_fn, batch = models.make_loss(TINY, VOCAB), _batch()
  losses = jax.jit(jax.vmap(loss_fn, (0, None)))(stacked, batch)
  expected = [jax.jit(loss_fn)(params, batch) for params in several]
  np.testing.assert_allclose(losses, expected, rtol=1e-5)


# Which parameters are there?


# The sizes at which GaLore (arXiv:2403.03507) and its successors pre-train.
@pytest.mark.parametrize(
    'width, feed_forward, heads, layers',
    [
        pytest.param(512, 1376, 8, 8, id='60M'),
        pytest.param(768, 2048, 12, 12, id='130M'),
        pytest.param(1024, 2736, 16, 24, id='350M'),
        pytest.param(2048, 5461, 32, 24, id='1B'),
    ],
)
def test_parameter_count(width, feed_forward, heads, layers):
  model = config.Model(
      width=width, feed_forward=feed_forward, heads=heads, layers=layers
  )
  shapes = jax.eval_shape(functools.partial(models.init, model, 32000), 0)
  count = sum(x.size for x in jax.tree.leaves(shapes))
  attention, swiglu, gains = 4 * width**2, 3 * width * feed_forward, 2 * width
  blocks = layers * (attention + swiglu + gains)
  assert count == 2 * 32000 * width + width + blocks


@pytest.mark.parametrize('embeddings', [False, True])
def test_rules_cover_every_parameter(embeddings):
  shapes = jax.eval_shape(functools.partial(models.init, TINY, VOCAB), 0)
  found = _paths(models.matrix_dimension_numbers(shapes, embeddings))
  assert found.keys() == _paths(shapes).keys()
  for name, value in found.items():
    table = name in ('embedding', 'head')
    dense = name.endswith('norm') or (table and not embeddings)
    assert value == (None if dense else MATRIX), name


def test_uncovered_parameter_is_named():
  params = models.init(TINY, VOCAB, 0)
  params['blocks']['1']['adapter'] = jnp.zeros((16, 2))
  with pytest.raises(ValueError, match="'blocks/1/adapter'"):
    models.matrix_dimension_numbers(params)


def test_first_matching_rule_wins_and_matches_the_whole_path():
  params = {'a': {'bias': 0, 'kernel': 0}, 'bias': 0}
  ordered = [('bias', 'first'), ('.*bias', 'second'), ('.*', 'third')]
  assert rules.by_path(ordered, params) == {
      'a': {'bias': 'second', 'kernel': 'third'},
      'bias': 'first',
  }


# Are mistakes named?


@pytest.mark.parametrize(
    'batch',
    [
        jnp.zeros((2, 1), jnp.int32),
        jnp.zeros(13, jnp.int32),
        jnp.zeros((2, 13)),
    ],
    ids=['no target', 'one sequence', 'floats'],
)
def test_wrong_batch_is_refused(batch):
  loss_fn = models.make_loss(TINY, VOCAB)
  with pytest.raises(ValueError, match='a batch is integers'):
    loss_fn(models.init(TINY, VOCAB, 0), batch)


def test_empty_vocabulary_is_refused():
  with pytest.raises(ValueError, match='vocab_size must be at least 1'):
    models.init(TINY, 0, seed=0)


@pytest.mark.parametrize('column', [3, -1])
def test_token_outside_the_vocabulary_gives_nan(column):
  params, batch = models.init(TINY, VOCAB, 0), _batch()
  batch = batch.at[0, column].set(VOCAB)
  assert jnp.isnan(jax.jit(models.make_loss(TINY, VOCAB))(params, batch))
