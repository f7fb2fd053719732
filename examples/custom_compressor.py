"""A compressor of your own: the largest rows of every matrix.

On a laptop, set XLA_FLAGS=--xla_force_host_platform_device_count=4 to simulate
4 workers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl


@dataclasses.dataclass(frozen=True)
class TopRows(gl.Compressor):
  """The `count` rows whose sum over the workers is largest.

  A row is scored by its product with one random vector v, equal on all workers.
  """

  count: int

  linear = True  # The output depends on the h_i only through their mean.

  def compress(self, h, state, key):  # h: [k, a, b] with a <= b.
    v = jax.random.normal(key, (h.shape[2], 1), h.dtype)
    scores, _ = yield h @ v  # First round: a numbers per matrix.
    count = min(self.count, h.shape[1])
    _, rows = jax.lax.top_k(jnp.abs(scores[..., 0]), count)
    chosen = jnp.take_along_axis(h, rows[..., None], axis=1)
    mean, sent = yield chosen  # Second round: count * b numbers.

    def put(values):
      fill = lambda x, j: jnp.zeros(h.shape[1:], h.dtype).at[j].set(x)
      return jax.vmap(fill)(values, rows)

    return put(mean), put(sent), state


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y) ** 2)


keys = jax.random.split(jax.random.key(0), 4)
params = {
  'in': jax.random.normal(keys[0], (32, 64)) / 8,
  'out': jax.random.normal(keys[1], (64, 16)) / 8,
}
print(gl.plan(TopRows(4), params, num_workers=4))  # Traced, not estimated.

auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
tx = optax.chain(gl.compress_gradients(TopRows(4), 'data'), optax.adamw(1e-2))
opt_state = gl.init_state(tx, params, mesh, axis_name='data')
step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')
batch = (
  jax.random.normal(keys[2], (64, 32)),
  jax.random.normal(keys[3], (64, 16)),
)
for i in range(20):
  params, opt_state, loss = step(params, opt_state, batch)
  print(f'step {i}: loss {loss:.4f}')
