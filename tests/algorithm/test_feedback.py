"""Error feedback, and methods that need the error of every worker."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'w': (6, 12), 'tall': (9, 5), 'bias': (4,)}
MATRICES = ('w', 'tall')
OPTIONS = {'start_step': 1, 'min_compression_rate': 0}
OWN = {
  'top entries': gl.TopK(0.2, indices='own'),
  '4 bits': gl.Quantize(4),
  'sign': gl.Sign(),
  'chunks': gl.ChunkTopK(chunk=4, keep=5, bits=4),
  'threshold': gl.ThresholdTopK(0.2, update_interval=2),
  'tsr, bases': gl.TSR(2, update_interval=4, average='bases'),
}


@functools.cache
def compiled(method, n, **options):
  tx = gl.compress_gradients(method, workers.AXIS, **OPTIONS, **options)
  return tx, workers.simulated(tx, n)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(x, marks=pytest.mark.slow) if x == 'tsr, bases' else x
    for x in OWN
  ],
)
def test_errors_that_cannot_be_merged_are_kept_and_say_so(name):
  tx, update = compiled(OWN[name], 4)
  state = workers.fresh(tx, SHAPES, 4)
  for step in range(3):
    _, state = update(workers.random_grads(SHAPES, 4, seed=step), state)
  saved = gl.collapse(state)
  np.testing.assert_array_equal(saved.error['w'], state.error['w'])
  same = gl.expand(saved, 4)
  np.testing.assert_array_equal(same.error['w'], saved.error['w'])
  with pytest.raises(ValueError, match=r'of 4 workers.*so 2 workers cannot'):
    gl.expand(saved, 2)
  # The way out conserves what was not sent.
  other = gl.expand(gl.collapse(state, exact=False), 2, exact=False)
  for kept, was in zip(
    jax.tree.leaves(other.error), jax.tree.leaves(state.error), strict=True
  ):
    assert workers.relative(kept.mean(0), was.mean(0)) < 1e-6


def test_with_merged_errors_such_a_method_would_go_elsewhere():
  """The control: why `collapse` does not merge them."""
  tx, update = compiled(OWN['sign'], 4)
  state = workers.fresh(tx, SHAPES, 4)
  for step in range(3):
    _, state = update(workers.random_grads(SHAPES, 4, seed=step), state)
  merged = gl.expand(gl.collapse(state, exact=False), 4, exact=False)
  grads = workers.random_grads(SHAPES, 4, seed=3)
  right, _ = update(grads, state)
  wrong, _ = update(grads, merged)
  assert workers.relative(wrong['w'], right['w']) > 0.1


def test_integers_on_the_wire_are_not_linear_either():
  params = workers.zeros(SHAPES)
  linear = lambda **options: (
    gl.plan(gl.PowerSGD(2), params, **options).is_linear
  )
  assert linear()
  assert linear(factor_dtype=jnp.bfloat16)
  assert not linear(factor_dtype=jnp.int8)
  tx = gl.compress_gradients(gl.PowerSGD(2), None, factor_dtype='int8')
  with pytest.raises(ValueError, match='needs that of each of 3'):
    gl.expand(tx.init(params), 3)


@pytest.mark.parametrize(
  'name', ['top entries', '4 bits', 'sign', 'int8', 'chunks', 'threshold']
)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_bad_gradient_that_is_gathered_leaves_the_state_alone(name, bad):
  method = OWN.get(name, gl.PowerSGD(2))
  options = {'factor_dtype': jnp.int8} if name == 'int8' else {}
  tx, update = compiled(method, 4, **options)
  state = workers.fresh(tx, SHAPES, 4)
  for step in range(2):
    _, state = update(workers.random_grads(SHAPES, 4, seed=step), state)
  grads = workers.random_grads(SHAPES, 4, seed=9)
  grads['w'][2, 1, 1] = bad
  updates, new = update(grads, state)
  assert all(np.isnan(u).all() for u in jax.tree.leaves(updates))
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  'method', [OWN[x] for x in ('sign', 'top entries', 'chunks', 'threshold')]
)
def test_what_is_gathered_is_equal_on_all_workers(method):
  """shard_map, which proves it by types, pmap and vmap give the same."""
  n = 4
  tx, update = compiled(method, n)
  mesh = workers.mesh_of(n)
  state = gl.init_state(tx, workers.zeros(SHAPES), mesh, axis_name=workers.AXIS)
  specs = gl.state_partition_specs(state, workers.AXIS)
  p = jax.sharding.PartitionSpec
  sharded = jax.jit(
    jax.shard_map(
      lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s),
      mesh=mesh,
      in_specs=(p(workers.AXIS), specs),
      out_specs=(p(), specs),
    )
  )
  by_pmap = jax.pmap(tx.update, axis_name=workers.AXIS)
  simulated = workers.fresh(tx, SHAPES, n)
  mapped = jax.tree.map(
    lambda x: jnp.stack([x] * n), tx.init(workers.zeros(SHAPES))
  )
  for step in range(3):
    grads = workers.random_grads(SHAPES, n, seed=step)
    a, state = sharded(grads, state)
    b, simulated = update(grads, simulated)
    c, mapped = by_pmap(grads, mapped)
    for name in SHAPES:
      assert workers.relative(b[name], a[name]) < workers.FLOAT32_ROUNDING
      assert workers.relative(c[name][1], a[name]) < workers.FLOAT32_ROUNDING
      np.testing.assert_array_equal(c[name][0], c[name][-1])
