"""A training loop with jax.pmap.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

import functools

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl

num_workers = jax.local_device_count()
tx = optax.chain(
  gl.compress_gradients(gl.PowerSGD(rank=4), 'data'), optax.adamw(1e-2)
)


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y) ** 2)


@functools.partial(jax.pmap, axis_name='data')
def step(params, opt_state, batch):
  """Gradients of one worker go in, and no pmean comes before tx.update."""
  loss, grads = jax.value_and_grad(loss_fn)(params, batch)
  updates, opt_state = tx.update(grads, opt_state, params)
  params = optax.apply_updates(params, updates)
  return params, opt_state, jax.lax.pmean(loss, 'data')


def one_each(tree):
  """A copy for every worker, along a new leading axis."""
  return jax.tree.map(lambda x: jnp.stack([x] * num_workers), tree)


keys = jax.random.split(jax.random.key(0), 4)
params = {
  'in': jax.random.normal(keys[0], (32, 64)) / 8,
  'out': jax.random.normal(keys[1], (64, 16)) / 8,
}
batch = (
  jax.random.normal(keys[2], (num_workers, 16, 32)),
  jax.random.normal(keys[3], (num_workers, 16, 16)),
)
# tx.init returns the state of one worker. Its errors are zero.
params, opt_state = one_each(params), one_each(tx.init(params))

for i in range(20):
  params, opt_state, loss = step(params, opt_state, batch)
  print(f'step {i}: loss {loss[0]:.4f}')
