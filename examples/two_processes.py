"""Two processes on one machine, as two hosts would train: no arguments.

On a cluster, each host runs only what `train` does.
"""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import greedylore_jax as gl

P = jax.sharding.PartitionSpec


def loss_fn(params, batch):
  x, y = batch
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y) ** 2)


def train(coordinator, index):
  # On CPUs, processes communicate by gloo. GPUs and TPUs need no such line.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # SLURM, Kubernetes and TPU pods are recognized: initialize() is enough there.
  jax.distributed.initialize(coordinator, 2, index)
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=auto)
  everywhere = jax.NamedSharding(mesh, P())
  divided = jax.NamedSharding(mesh, P('data'))

  # Every process makes equal parameters, from the same seed.
  draw = np.random.default_rng(0)
  params = {'in': draw.normal(size=(32, 64)), 'out': draw.normal(size=(64, 16))}
  params = jax.tree.map(lambda x: jnp.float32(x / 8), params)
  params = jax.device_put(params, everywhere)
  tx = optax.chain(
    gl.compress_gradients(gl.PowerSGD(rank=4), 'data'), optax.adamw(1e-2)
  )
  opt_state = gl.init_state(tx, params, mesh, axis_name='data')
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')

  # Every process reads its own part of the batch.
  draw = np.random.default_rng(index + 1)
  own = draw.normal(size=(32, 32)), draw.normal(size=(32, 16))
  batch = tuple(
    jax.make_array_from_process_local_data(divided, np.float32(x)) for x in own
  )
  for i in range(20):
    params, opt_state, loss = step(params, opt_state, batch)
    if index == 0:
      print(f'step {i}: loss {loss:.4f}', flush=True)


def main():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    coordinator = f'localhost:{free.getsockname()[1]}'
  flags = '--xla_force_host_platform_device_count=2'
  env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  start = [sys.executable, __file__, coordinator]
  both = [subprocess.Popen([*start, str(i)], env=env) for i in range(2)]
  return max(process.wait() for process in both)


if __name__ == '__main__':
  if sys.argv[1:]:
    train(sys.argv[1], int(sys.argv[2]))
  else:
    sys.exit(main())
