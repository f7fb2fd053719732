"""One worker's NaN or Inf: all agree and skip, and nothing is poisoned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
from greedylore_jax._src.wire import linalg
import workers

SHAPES = {'w': (6, 12), 'bias': (4,)}
N = 4


@functools.cache
def compiled():
  tx = gl.compress_gradients(
    gl.GreedyLore(2, update_interval=4),
    workers.AXIS,
    start_step=1,
    min_compression_rate=0,
  )
  return tx, workers.simulated(tx, N)


def after(steps):
  """The state after some good steps."""
  tx, update = compiled()
  state = gl.expand(tx.init(workers.zeros(SHAPES)), N)
  for step in range(steps):
    _, state = update(workers.random_grads(SHAPES, N, seed=step), state)
  return update, state


@pytest.mark.parametrize('leaf', ['w', 'bias'])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('steps', [0, 1, 2])  # Warm-up, refresh, compressed.
def test_a_bad_gradient_on_one_worker_leaves_the_state_alone(leaf, bad, steps):
  update, state = after(steps)
  grads = workers.random_grads(SHAPES, N, seed=9)
  grads[leaf][(2,) + (1,) * (grads[leaf].ndim - 1)] = bad
  updates, new = update(grads, state)
  assert all(np.isnan(u).all() for u in jax.tree.leaves(updates))
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)
  # And the next good step is what it would have been.
  good = workers.random_grads(SHAPES, N, seed=10)
  for a, b in zip(
    jax.tree.leaves(update(good, new)),
    jax.tree.leaves(update(good, state)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


METHODS = [
  gl.ChunkTopK(chunk=4, keep=3),
  gl.ChunkTopK(chunk=4, keep=3, bits=2, transform='dct'),
  gl.ChunkTopK(chunk=4, keep=3, bits=4),
  gl.CountSketch(),
  gl.FixedSubspace(2),
  gl.GreedyLore(2),
  gl.PowerSGD(2),
  gl.Quantize(),
  gl.RandomK(0.1),
  gl.RandomSubspace(2),
  gl.RangeFinder(2),
  gl.Sign(),
  gl.SplitColumns(),
  gl.ThresholdTopK(0.1),
  gl.TopK(0.1),
  gl.TopK(0.1, 'own'),
  gl.TSR(2),
]


@pytest.mark.parametrize('method', METHODS, ids=repr)
def test_no_method_hides_a_single_bad_entry(method):
  """What it would not send of it would stay in the error for good."""
  tx = gl.compress_gradients(method, workers.AXIS, min_compression_rate=0)
  update = workers.simulated(tx, 2)
  shapes = {'w': (6, 12)}
  good = [workers.random_grads(shapes, 2, seed=i) for i in range(2)]
  _, state = update(good[0], workers.fresh(tx, shapes, 2))
  good[1]['w'][1, 4, 7] = np.nan
  updates, new = update(good[1], state)
  assert np.isnan(updates['w']).all()
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)


def test_apply_if_finite_behind_it_skips_the_step_on_all_workers():
  tx = optax.chain(
    gl.greedylore(2, workers.AXIS, min_compression_rate=0),
    optax.apply_if_finite(optax.adam(0.1), max_consecutive_errors=3),
  )
  mesh = workers.mesh_of(N)

  def loss_fn(params, scale):
    return jnp.sum(scale) * jnp.sum(params['w'] ** 2)

  params = {'w': jnp.ones((6, 12))}
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  good = np.ones(N, np.float32)
  bad = good.copy()
  bad[2] = np.nan
  params, state, _ = step(params, state, good)
  kept = jax.tree.map(np.array, params)
  params, state, loss = step(params, state, bad)
  assert np.isnan(loss)
  np.testing.assert_array_equal(params['w'], kept['w'])
  assert optax.tree.get(state, 'total_notfinite') == 1
  params, state, loss = step(params, state, good)
  assert np.isfinite(loss)
  assert np.isfinite(params['w']).all()
  assert not np.array_equal(params['w'], kept['w'])


def test_a_sum_that_overflows_counts_as_not_finite():
  update, state = after(1)
  grads = workers.random_grads(SHAPES, N, seed=9)
  grads['bias'][:] = 3e38
  updates, new = update(grads, state)
  assert np.isnan(updates['w']).all()
  np.testing.assert_array_equal(new.count, state.count)


def test_a_decomposition_that_fails_is_not_remembered(monkeypatch):
  """The refresh is tried again at the next step."""
  failed = lambda decomposition: lambda h: jnp.full((6, 6), jnp.nan)
  tx = gl.greedylore(2, None, min_compression_rate=0)
  grads = {'w': jnp.asarray(workers.random_grads(SHAPES, 1, seed=0)['w'][0])}
  state = tx.init(grads)
  with monkeypatch.context() as patch:
    patch.setattr(linalg, 'left_singular_basis', failed)
    updates, state = tx.update(grads, state)
  assert np.isnan(updates['w']).all()
  assert state.count == 0
  updates, state = tx.update(grads, state)
  np.testing.assert_array_equal(updates['w'], grads['w'])
  assert state.count == 1


@pytest.mark.parametrize(
  ('dtype', 'options'),
  [('float32', {'error_dtype': 'float16'}), ('float16', {})],
)
def test_what_overflows_a_dtype_is_cut_and_the_run_goes_on(dtype, options):
  """An error or an update that was infinite would stay so for ever."""
  method = gl.RandomK(0.1)
  tx = gl.compress_gradients(method, None, factor_dtype='float32', **options)
  params = {'w': jnp.zeros((8, 16), dtype)}
  state, update = tx.init(params), jax.jit(tx.update)
  large = 3e4 if dtype == 'float16' else 1e5
  for step, size in enumerate([large, large, large, large, 1.0]):
    updates, state = update({'w': jnp.full((8, 16), size, dtype)}, state)
    assert jnp.isfinite(updates['w']).all(), step
    assert jnp.isfinite(state.error['w']).all(), step
  assert int(state.count) == 5


TINY = {
  'greedylore': gl.GreedyLore(2, update_interval=10),
  'top_k': gl.TopK(0.1),
}


@pytest.mark.parametrize('name', TINY)
def test_tiny_gradients_are_chosen_from_like_others(name):
  """Their squares are 0 in float32, and equal scores choose nothing."""
  tx = gl.compress_gradients(TINY[name], None, min_compression_rate=0)
  update = jax.jit(tx.update)
  sent = []
  for scale in (1.0, 2.0**-80):
    state = tx.init(workers.zeros({'w': (16, 24)}))
    for step in range(3):
      (grads,) = workers.random_grads({'w': (16, 24)}, 1, seed=step)['w']
      updates, state = update({'w': jnp.float32(scale) * grads}, state)
    sent.append(updates['w'] / scale)
  np.testing.assert_allclose(*sent, atol=1e-5)
