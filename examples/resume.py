"""Save on 4 workers and resume on 2, exactly.

Needs 4 devices. On a laptop, set
XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate them.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import greedylore_jax as gl

tx = optax.chain(gl.greedylore(rank=4, axis_name='data'), optax.adamw(1e-2))
keys = jax.random.split(jax.random.key(0), 4)
batch = (
  jax.random.normal(keys[0], (64, 32)),
  jax.random.normal(keys[1], (64, 16)),
)


def initial_params():
  return {
    'in': jax.random.normal(keys[2], (32, 64)) / 8,
    'out': jax.random.normal(keys[3], (64, 16)) / 8,
  }


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y) ** 2)


def train(num_workers, steps, folder, save=False, resume=False):
  """The losses of some steps, between two checkpoints."""
  auto = (jax.sharding.AxisType.Auto,)
  devices = jax.devices()[:num_workers]
  mesh = jax.make_mesh((num_workers,), ('data',), auto, devices=devices)
  everywhere = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = jax.device_put(initial_params(), everywhere)
  opt_state = gl.init_state(tx, params, mesh, axis_name='data')
  with ocp.StandardCheckpointer() as files:
    if resume:
      template = gl.state_template(tx, params, mesh, axis_name='data')
      params, saved = files.restore(folder, (params, template))
      opt_state = gl.place_state(saved, mesh, axis_name='data')
    step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')
    losses = []
    for _ in range(steps):
      params, opt_state, loss = step(params, opt_state, batch)
      losses.append(float(loss))
    if save:  # One mean error, whatever the number of workers.
      files.save(folder, (params, gl.collapse(opt_state)))
  return losses


with tempfile.TemporaryDirectory() as name:
  folder = pathlib.Path(name) / 'saved'
  whole = train(4, 20, folder)
  parts = train(4, 10, folder, save=True) + train(2, 10, folder, resume=True)
for i, (a, b) in enumerate(zip(whole, parts, strict=True)):
  print(f'step {i}: loss {b:.6f}, uninterrupted on 4 workers: {a:.6f}')
np.testing.assert_allclose(parts, whole, rtol=1e-4)
