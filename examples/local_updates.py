"""Local updates: 5 steps on each worker, then one compressed message.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl

EVERY = 5
tx = gl.local_updates(
  optax.adamw(1e-2),  # Inner optimizer: each worker on its own.
  outer=optax.chain(
    gl.compress_gradients(gl.Quantize(bits=4), 'data'),
    optax.sgd(1.0),  # Outer optimizer: plain averaging.
  ),
  every=EVERY,
)


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y) ** 2)


keys = jax.random.split(jax.random.key(0), 4)
params = {
  'in': jax.random.normal(keys[0], (32, 64)) / 8,
  'out': jax.random.normal(keys[1], (64, 16)) / 8,
}
plan = gl.plan(gl.Quantize(bits=4), params, num_workers=4, every=EVERY)
print(f'{plan.dense_bytes / plan.bytes_per_step:.1f} times fewer bytes')

auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
opt_state = gl.init_state(tx, params, mesh, axis_name='data')
# One call takes a whole round: batches have a leading axis of steps.
step = gl.make_train_step(
  loss_fn, tx, mesh, axis_name='data', steps_per_call=EVERY
)
batches = (
  jax.random.normal(keys[2], (EVERY, 64, 32)),
  jax.random.normal(keys[3], (EVERY, 64, 16)),
)
for i in range(10):
  params, opt_state, losses = step(params, opt_state, batches)
  # losses: [steps, workers]. Their mean is computed when you ask for it.
  print(f'round {i}: loss {losses.mean():.4f}')
