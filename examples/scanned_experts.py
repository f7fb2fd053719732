"""Stacked leaves: scanned layers, experts, and projections to heads.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

import greedylore_jax as gl

WIDTH, LAYERS, EXPERTS, HEADS, HIDDEN = 32, 2, 4, 8, 64
normal = jax.random.normal
keys = jax.random.split(jax.random.key(0), 6)
params = {
  'router': normal(keys[0], (LAYERS, WIDTH, EXPERTS)) / 8,
  'up': normal(keys[1], (LAYERS, EXPERTS, WIDTH, HIDDEN)) / 8,
  'down': normal(keys[2], (LAYERS, EXPERTS, HIDDEN, WIDTH)) / 8,
  'heads': normal(keys[3], (LAYERS, WIDTH, HEADS, 4)) / 8,
}
# By default the last two axes of a stack are matrices. The shape of `heads`
# is ambiguous: state that its rows are axis 1 and its columns axes 2 and 3.
options = {
  'weight_dimension_numbers': [('heads', MuonDimensionNumbers(1, (2, 3)))]
}
print(gl.plan(gl.PowerSGD(rank=2), params, num_workers=4, **options))


def layer(x, p):
  """One layer; every expert sees every example, weighted by the router."""
  x = x + jnp.einsum('bw,whk->bhk', x, p['heads']).reshape(x.shape)
  weights = jax.nn.softmax(x @ p['router'])
  hidden = jnp.tanh(jnp.einsum('bw,ewh->beh', x, p['up']))
  return x + jnp.einsum('be,beh,ehw->bw', weights, hidden, p['down']), None


def loss_fn(params, batch):
  x, y = batch
  x, _ = jax.lax.scan(layer, x, params)
  return jnp.mean((x - y) ** 2)


auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
tx = optax.chain(
  gl.compress_gradients(gl.PowerSGD(rank=2), 'data', **options),
  optax.adamw(3e-3),
)
opt_state = gl.init_state(tx, params, mesh, axis_name='data')
step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')
batch = normal(keys[4], (64, WIDTH)), normal(keys[5], (64, WIDTH))
for i in range(20):
  params, opt_state, loss = step(params, opt_state, batch)
  print(f'step {i}: loss {loss:.4f}')
