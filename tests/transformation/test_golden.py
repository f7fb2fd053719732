"""Did behavior move? One compressed step, number by number."""

import jax
import jax.numpy as jnp
import numpy as np

import greedylore_jax as gl

# What GreedyLore sends for the gradients below in its second step.
GOLDEN = np.array(
  [
    [0.503239, -0.320401, -0.714290, 0.937575, -0.765819, 0.968550],
    [-0.840747, 0.741821, 0.220961, -0.505144, 0.249926, 0.935586],
    [0.507949, -0.429731, -0.220364, 0.399994, -0.242966, -0.337114],
    [-0.303133, 0.245181, 0.184579, -0.296628, 0.201186, 0.061803],
  ]
)


def test_a_compressed_step_gives_the_numbers_it_always_gave():
  tx = gl.greedylore(2, None, update_interval=10, min_compression_rate=0)
  params = {'w': jnp.zeros((4, 6))}
  grads = [
    {'w': jnp.cos(jnp.arange(24.0).reshape(4, 6) ** 1.5 + step)}
    for step in range(2)
  ]
  state = tx.init(params)
  for g in grads:
    updates, state = jax.jit(tx.update)(g, state)
  got = np.asarray(updates['w'])
  same = got.shape == GOLDEN.shape and np.allclose(got, GOLDEN, atol=1e-5)
  assert same, (
    'A compressed step gives other numbers than before. If that is meant (new'
    ' random numbers, another choice of directions), say so in CHANGELOG.md'
    f' as a change of behavior and put this here:\n{got!r}'
  )
