"""A training loop with your own jax.shard_map.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl

P = jax.sharding.PartitionSpec
auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
tx = optax.chain(
  gl.compress_gradients(gl.PowerSGD(rank=4), 'data'),
  optax.clip_by_global_norm(1.0),
  optax.adamw(1e-2),
)


def loss_fn(params, batch):
  """The mean loss of one worker's examples: no pmean and no psum in here."""
  x, y = batch
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y) ** 2)


def local_step(params, opt_state, batch):
  """What each worker does, with its own part of the batch."""
  loss, grads = gl.value_and_local_grad(loss_fn, 'data')(params, batch)
  updates, opt_state = tx.update(grads, opt_state, params)
  params = optax.apply_updates(params, updates)
  return params, opt_state, jax.lax.pmean(loss, 'data')


keys = jax.random.split(jax.random.key(0), 4)
params = {
  'in': jax.random.normal(keys[0], (32, 64)) / 8,
  'out': jax.random.normal(keys[1], (64, 16)) / 8,
}
batch = (
  jax.random.normal(keys[2], (64, 32)),
  jax.random.normal(keys[3], (64, 16)),
)

# Every worker has its own error; everything else in the state is replicated.
opt_state = gl.init_state(tx, params, mesh, axis_name='data')
specs = gl.state_partition_specs(opt_state, 'data')
step = jax.jit(
  jax.shard_map(
    local_step,
    mesh=mesh,
    in_specs=(P(), specs, P('data')),
    out_specs=(P(), specs, P()),
  )
)

for i in range(20):
  params, opt_state, loss = step(params, opt_state, batch)
  print(f'step {i}: loss {loss:.4f}')
