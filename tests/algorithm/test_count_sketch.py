"""Does a count sketch find what is large, at the bytes that it promises?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import workers


def sent_of(method, grads):
  """What one worker sends of one matrix."""
  tx = gl.compress_gradients(method, None, min_compression_rate=0)
  updates, _ = jax.jit(tx.update)({'w': grads}, tx.init({'w': grads}))
  return np.asarray(updates['w'])


def test_a_few_large_entries_are_found_among_many_small_ones():
  rng = np.random.default_rng(0)
  grads = 0.01 * rng.normal(size=(40, 100))
  large = rng.choice(grads.size, 10, replace=False)
  grads.flat[large] = rng.choice([-1, 1], 10) * rng.uniform(1, 2, 10)
  sent = sent_of(
    gl.CountSketch(rows=5, columns=4.0, density=0.01), np.float32(grads)
  )
  assert np.count_nonzero(sent) == 40
  np.testing.assert_allclose(sent.flat[large], grads.flat[large], rtol=1e-6)


def test_more_buckets_and_rows_catch_more_energy():
  """Of entries with heavy tails; exact top-k is the limit."""
  rng = np.random.default_rng(1)
  grads = np.float32(rng.standard_t(2, size=(60, 100)))
  energy = lambda x: float(np.sum(x**2))
  caught = [
    energy(
      sent_of(gl.CountSketch(rows=rows, columns=columns, density=0.05), grads)
    )
    for rows, columns in ((1, 0.5), (3, 1.0), (5, 4.0))
  ]
  best = float(np.sum(np.sort(grads.ravel() ** 2)[-300:]))
  assert caught[0] < caught[1] < caught[2] <= best * 1.001
  assert caught[2] > 0.95 * best


@pytest.mark.parametrize('rows', [1, 2, 3, 4, 5])
def test_as_many_buckets_as_entries_are_exact(rows):
  """Nothing shares a bucket, so the choice is that of exact top-k."""
  grads = workers.random_grads({'w': (7, 9)}, 1, seed=rows)['w'][0]
  sent = sent_of(gl.CountSketch(rows=rows, columns=20.0, density=0.1), grads)
  best = np.sort(np.argsort(-np.abs(grads).ravel())[:6])
  np.testing.assert_array_equal(np.flatnonzero(sent), best)


def test_one_configuration_has_one_ratio_for_matrices_of_all_sizes():
  """Whatever the shape and the number of workers."""
  for shape in ((16, 32), (100, 300), (3, 64, 256)):
    for n in (2, 64):
      plan = gl.plan(
        gl.CountSketch(rows=3, columns=2.0, density=0.02),
        {'w': jax.ShapeDtypeStruct(shape, jnp.float32)},
        num_workers=n,
      )
      share = plan.bytes_in('compress') / plan.dense_bytes
      assert share == pytest.approx(0.02 * 7, rel=0.03), (shape, n)


def test_no_table_of_hashes_is_made():
  """Its memory is a few times the matrix, not rows times an index for each."""
  shape = (512, 1024)
  tx = gl.compress_gradients(
    gl.CountSketch(rows=5, columns=1.0, density=0.02), None
  )
  params = {'w': jax.ShapeDtypeStruct(shape, jnp.float32)}
  state = jax.eval_shape(tx.init, params)
  compiled = jax.jit(tx.update).lower(params, state).compile()
  dense = 4 * 512 * 1024
  # Five estimates, the signed matrix and what top-k works on.
  assert compiled.memory_analysis().temp_size_in_bytes < 12 * dense


def test_hashes_are_new_in_each_step():
  """An entry that collides once is found another time."""
  tx = gl.compress_gradients(
    gl.CountSketch(rows=1, columns=1.0, density=0.05),
    None,
    error_feedback=False,
  )
  grads = {'w': jnp.ones((16, 32))}
  update, state = jax.jit(tx.update), tx.init(grads)
  sent = np.zeros((16, 32))
  for _ in range(100):
    updates, state = update(grads, state)
    sent += np.asarray(updates['w'])
  assert np.count_nonzero(sent) > 0.9 * sent.size


def test_behind_local_steps():
  """The pseudo-gradient is sketched; nothing is lost over the rounds."""
  tx = gl.local_updates(
    optax.sgd(0.1),
    outer=optax.chain(
      gl.compress_gradients(gl.CountSketch(density=0.1), workers.AXIS),
      optax.sgd(1.0),
    ),
    every=3,
  )
  n, shapes = 3, {'w': (6, 12)}
  params = workers.zeros(shapes)
  state = gl.expand(tx.init(params), n, exact=False)
  step = workers.optimized(tx)
  moved = 0
  for i in range(6):
    grads = workers.random_grads(shapes, n, seed=i)
    moved = moved - 0.1 * grads['w'].mean(0)
    params, state = step(params, state, grads)
  (outer,) = state.outer
  left = outer[0].error['w'].mean(0)
  assert workers.relative(params['w'] - left, moved) < 1e-5
