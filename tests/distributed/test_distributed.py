"""Is it distributed? shard_map, pmap, vmap and processes agree, bit by bit."""

import functools
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
from job import (
  COMPRESSOR,
  POLICY,
  SHAPES,
  STEPS,
  N,
  P,
  batches,
  chain,
  initial_params,
  loss_fn,
)
import together
import workers


@functools.cache
def by_shard_map(n=N, steps=STEPS):
  """Parameters and state after some steps of the public train step."""
  mesh = workers.mesh_of(n)
  params = initial_params()
  tx = chain()
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  for batch in batches(n, steps):
    params, state, loss = step(params, state, batch)
    loss.block_until_ready()  # Virtual devices must not run far ahead.
  assert step.jitted._cache_size() == 1, 'the step compiled again'
  return params, state


def local_step(params, state, targets):
  """A step as one writes it by hand, for pmap and vmap."""
  grad_fn = gl.value_and_local_grad(loss_fn, workers.AXIS)
  _, grads = grad_fn(params, jax.tree.map(lambda x: x[None], targets))
  updates, state = chain().update(grads, state, params)
  return optax.apply_updates(params, updates), state


def close(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert workers.relative(x, y) < workers.FLOAT32_ROUNDING


def test_parameters_are_bitwise_equal_on_all_workers_after_50_steps():
  params, state = by_shard_map(4, 50)
  shared = (params, state[1], state[0].count, state[0].compressor_state)
  for leaf in jax.tree.leaves(shared):
    first, *others = [np.asarray(s.data) for s in leaf.addressable_shards]
    assert len(others) == 3
    for other in others:
      np.testing.assert_array_equal(first, other)
  errors = np.asarray(state[0].error['w'])
  assert not np.array_equal(errors[0], errors[1]), 'errors are one per worker'


def test_pmap_gives_the_same_parameters():
  stacked = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * N), tree)
  params = initial_params()
  state = stacked(chain().init(params))
  params = stacked(params)
  step = jax.pmap(local_step, axis_name=workers.AXIS)
  for batch in batches(N):
    params, state = step(params, state, batch)
  close(jax.tree.map(lambda x: x[0], params), by_shard_map()[0])
  for leaf in jax.tree.leaves(params):
    np.testing.assert_array_equal(leaf[0], leaf[-1])


def test_vmap_gives_the_same_parameters():
  params = initial_params()
  state = jax.tree.map(lambda x: jnp.stack([x] * N), chain().init(params))
  step = jax.jit(
    jax.vmap(local_step, in_axes=(None, 0, 0), axis_name=workers.AXIS)
  )
  for batch in batches(N):
    stacked, state = step(params, state, batch)
    params = jax.tree.map(lambda x: x[0], stacked)
  close(params, by_shard_map()[0])


@pytest.mark.slow
def test_shard_map_without_type_tracking_gives_the_same_parameters():
  mesh = workers.mesh_of(2)
  params = initial_params()
  state = gl.init_state(chain(), params, mesh, axis_name=workers.AXIS)
  specs = gl.state_partition_specs(state, workers.AXIS)

  def step(params, state, targets):
    return local_step(params, state, jax.tree.map(lambda x: x[0], targets))

  sharded = jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(P(), specs, P(workers.AXIS)),
      out_specs=(P(), specs),
      check_vma=False,
    )
  )
  for batch in batches(2):
    params, state = sharded(params, state, batch)
  close(params, by_shard_map(2)[0])


def test_several_axes_are_one():
  devices = np.array(jax.devices()[:N]).reshape(2, N // 2)
  mesh = jax.sharding.Mesh(devices, ('host', 'chip'))
  axes = ('host', 'chip')
  tx = optax.chain(
    gl.compress_gradients(COMPRESSOR, axes, **POLICY), optax.adam(1e-2)
  )
  params = initial_params()
  state = gl.init_state(tx, params, mesh, axis_name=axes)
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=axes)
  for batch in batches(N):
    params, state, _ = step(params, state, batch)
  close(params, by_shard_map()[0])


def test_a_saved_state_resumes_with_other_workers():
  """Every worker holds its own share of the errors only, the mean of before."""
  params, tx = initial_params(), chain()
  mesh = workers.mesh_of(2)
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  for batch in batches(N, 4):
    params, state, _ = step(params, state, batch)
  saved = jax.tree.map(np.asarray, gl.collapse(state))
  placed = gl.place_state(saved, workers.mesh_of(4), axis_name=workers.AXIS)
  error = optax.tree.get(placed, 'error')
  mean = optax.tree.get(saved, 'error')
  for one, whole in zip(*map(jax.tree.leaves, (mean, error)), strict=True):
    assert whole.shape == (4, *one.shape[1:])
    assert {x.data.shape for x in whole.addressable_shards} == {one.shape}
    np.testing.assert_array_equal(whole, np.broadcast_to(one, whole.shape))


def test_accumulation_is_one_larger_batch():
  mesh = workers.mesh_of(2)
  results = []
  for accumulate_steps in (1, 4):
    params, tx = initial_params(), chain()
    state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
    step = gl.make_train_step(
      loss_fn,
      tx,
      mesh,
      axis_name=workers.AXIS,
      accumulate_steps=accumulate_steps,
    )
    for batch in batches(N, 3):
      params, state, loss = step(params, state, batch)
    results.append((params, loss))
  close(*results)


def test_aux_is_averaged_over_workers_and_micro_batches():
  mesh = workers.mesh_of(4)
  tx = optax.chain(gl.average_gradients(workers.AXIS), optax.sgd(0.1))
  params = {'w': jnp.zeros(3)}
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
    lambda p, x: (
      jnp.mean(x) + jnp.sum(p['w']),
      {'mean': jnp.mean(x), 'small': jnp.all(x < 16), 'large': jnp.uint8(200)},
    ),
    tx,
    mesh,
    axis_name=workers.AXIS,
    has_aux=True,
    accumulate_steps=2,
  )
  x = np.arange(16, dtype=np.float32)
  _, _, (loss, aux) = step(params, state, x)
  assert float(loss) == float(aux['mean']) == x.mean()
  assert float(aux['small']) == 1
  assert float(aux['large']) == 200


@pytest.mark.timeout(240)
def test_two_processes_give_the_same_parameters(tmp_path):
  """Real processes over gloo, against two devices of this one."""
  program = pathlib.Path(workers.__file__).with_name('process.py')
  environment = os.environ | {
    'XLA_FLAGS': '',
    'PYTHONPATH': str(program.parent),
  }
  address = together.free_address()
  together.run(
    [[sys.executable, program, address, i, tmp_path] for i in range(2)],
    timeout=200,
    environments=[environment] * 2,
  )
  a, b = (np.load(tmp_path / f'{i}.npz') for i in range(2))
  params, _ = by_shard_map(2)
  for name in SHAPES:
    np.testing.assert_array_equal(a[name], b[name])
    assert workers.relative(a[name], params[name]) < workers.FLOAT32_ROUNDING
