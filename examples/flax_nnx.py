"""A Flax NNX model: parameters out, functions of them back in.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

from flax import nnx
import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl


class Network(nnx.Module):
  """Two layers, with dropout between them."""

  def __init__(self, rngs):
    self.into = nnx.Linear(32, 64, use_bias=False, rngs=rngs)
    self.dropout = nnx.Dropout(0.1)
    self.out = nnx.Linear(64, 16, use_bias=False, rngs=rngs)

  def __call__(self, x, rngs=None):
    hidden = self.dropout(
      nnx.tanh(self.into(x)), deterministic=rngs is None, rngs=rngs
    )
    return self.out(hidden)


model = Network(nnx.Rngs(0))
graph, state = nnx.split(model, nnx.Param)
params = nnx.to_pure_dict(state)  # Plain nested dicts of arrays.


def loss_fn(params, batch, key):
  x, y = batch
  model = nnx.merge(graph, params)
  return jnp.mean((model(x, nnx.Rngs(dropout=key)) - y) ** 2)


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
  # From this key every worker gets its own.
  key = jax.random.fold_in(jax.random.key(2), i)
  params, opt_state, loss = step(params, opt_state, batch, key=key)
  print(f'step {i}: loss {loss:.4f}')

model = nnx.merge(graph, params)  # For evaluation.
print('an output', model(batch[0]).shape)
