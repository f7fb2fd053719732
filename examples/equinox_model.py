"""An Equinox model: its arrays are the parameters.

Needs Equinox (pip install equinox). On a laptop, set
XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate 4 workers.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl

model = eqx.nn.MLP(32, 16, 64, depth=2, key=jax.random.key(0))
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss_fn(params, batch):
  x, y = batch
  model = eqx.combine(params, static)
  return jnp.mean((jax.vmap(model)(x) - y) ** 2)


auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
tx = optax.chain(
  gl.compress_gradients(gl.PowerSGD(rank=4), 'data'), optax.adamw(1e-2)
)
opt_state = gl.init_state(tx, params, mesh, axis_name='data')
step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')

keys = jax.random.split(jax.random.key(1), 2)
batch = (
  jax.random.normal(keys[0], (64, 32)),
  jax.random.normal(keys[1], (64, 16)),
)
for i in range(20):
  params, opt_state, loss = step(params, opt_state, batch)
  print(f'step {i}: loss {loss:.4f}')

model = eqx.combine(params, static)  # For evaluation.
