"""A small training job, for one process or several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import greedylore_jax as gl
import workers

P = jax.sharding.PartitionSpec
N = 8
STEPS = 10
SHAPES = {'w': (8, 12), 'stack': (2, 6, 5), 'bias': (12,)}
COMPRESSOR = gl.GreedyLore(2, update_interval=4)
POLICY = {'start_step': 2, 'min_compression_rate': 0}


def chain():
  return optax.chain(
    gl.compress_gradients(COMPRESSOR, workers.AXIS, **POLICY), optax.adam(1e-2)
  )


def initial_params():
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in SHAPES.items()
  }


def batches(n, steps=STEPS):
  """One target per worker and step: [steps][n, ...]."""
  return [workers.random_grads(SHAPES, n, seed=step) for step in range(steps)]


def loss_fn(params, targets):
  """Distance from this worker's targets, leaves [rows, *shape]."""
  return sum(
    jnp.mean((params[name][None] - targets[name]) ** 2) for name in params
  )
