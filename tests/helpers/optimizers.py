"""Optimizers that compress, with workers of one device and of several."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

import greedylore_jax as gl
import workers

SHAPES = {'gain': (5,), 'stack': (2, 5, 6), 'tall': (12, 7), 'wide': (6, 12)}
# How they are sharded over the devices of a worker.
SHARDED = {
  'gain': P(),
  'stack': P(None, None, 'fsdp'),
  'tall': P('fsdp'),
  'wide': P('fsdp'),
}


def split(x):
  """The matrices of a leaf with their shorter side as rows."""
  x = np.asarray(x, np.float64)
  x = x if x.shape[-2] <= x.shape[-1] else np.swapaxes(x, -1, -2)
  return list(x.reshape(-1, *x.shape[-2:]))


def _loss_fn(params, targets):
  """Distance from this worker's targets, leaves [rows, *shape]."""
  return sum(
    jnp.mean((params[name][None] - targets[name]) ** 2) for name in params
  )


def _on_mesh(tx, params, specs, **sizes):
  """The step, parameters and state of two workers on a mesh."""
  kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
  mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)
  place = lambda x, spec: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, spec)
  )
  params = jax.tree.map(place, params, specs)
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
    _loss_fn, tx, mesh, axis_name=workers.AXIS, donate=False
  )
  return step, params, state


def check_several_devices(tx, steps):
  """Asserts that two workers of one device each end as those of two devices.

  Returns:
    The collectives of a step with one device each, and the state with two.
  """
  params = workers.zeros(SHAPES)
  one = _on_mesh(tx, params, dict.fromkeys(SHAPES, P()), data=2)
  several = _on_mesh(tx, params, SHARDED, data=2, fsdp=2)
  for i in range(steps):
    batch = workers.random_grads(SHAPES, 2, seed=i)
    one = one[0], *one[0](*one[1:], batch)[:2]
    several = several[0], *several[0](*several[1:], batch)[:2]
    jax.block_until_ready((one[1], several[1]))
  for name in SHAPES:
    error = workers.relative(several[1][name], one[1][name])
    assert error < workers.FLOAT32_FEEDBACK, name
  step, params, state = one
  compiled = step.lower(params, state, batch).compile()
  return gl.collectives(compiled), several[2]
