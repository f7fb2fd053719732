"""A Flax Linen model with flax.training.train_state.TrainState.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

from flax import linen as nn
from flax.training import train_state
import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl


class Network(nn.Module):
  """Two layers."""

  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Dense(64, use_bias=False)(x))
    return nn.Dense(16, use_bias=False)(x)


model = Network()


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean((model.apply({'params': params}, x) - y) ** 2)


auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
tx = optax.chain(
  gl.compress_gradients(gl.PowerSGD(rank=4), 'data'), optax.adamw(1e-2)
)
params = model.init(jax.random.key(0), jnp.ones((1, 32)))['params']
# TrainState.create would make a state for one worker; this one is for all.
state = train_state.TrainState(
  step=0,
  apply_fn=model.apply,
  params=params,
  tx=tx,
  opt_state=gl.init_state(tx, params, mesh, axis_name='data'),
)
# In the place of TrainState.apply_gradients: local gradients, compressed mean.
step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')

keys = jax.random.split(jax.random.key(1), 2)
batch = (
  jax.random.normal(keys[0], (64, 32)),
  jax.random.normal(keys[1], (64, 16)),
)
for i in range(20):
  params, opt_state, loss = step(state.params, state.opt_state, batch)
  state = state.replace(step=i + 1, params=params, opt_state=opt_state)
  print(f'step {i}: loss {loss:.4f}')
