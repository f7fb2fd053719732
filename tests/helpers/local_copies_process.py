"""One process of those that keep copies on their own disks.

COORDINATOR COUNT INDEX FOLDER KIND STEP,STEP,...: resumes from FOLDER, writes
what it found to FOLDER/../found-INDEX.npz, saves a state after each STEP, and
writes the last one to FOLDER/../saved-INDEX.npz. KIND is the method.
"""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import greedylore_jax as gl
from train.config.schema import Checkpoint, Config
from train.distributed import cluster
from train.run import local_copies
from train.run.checkpoint import Progress, Snapshot

_AXIS = cluster.WORKER_AXIS
_METHODS = {'linear': gl.PowerSGD(2), 'sign': gl.Sign()}
_SHAPE = 6, 8


def main(coordinator, count, index, folder, kind, steps):
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.config.update('jax_enable_x64', True)
  # Two workers in each process, of two devices each.
  jax.config.update('jax_num_cpu_devices', 4)
  jax.distributed.initialize(coordinator, count, index)
  devices = np.array(jax.devices()).reshape(2 * count, 2, 1)
  mesh = jax.sharding.Mesh(devices, (_AXIS, 'fsdp', 'tensor'))
  fresh = start(mesh, kind)
  config = Config(checkpoint=Checkpoint(local=str(folder)))
  with local_copies.LocalCopies(config, mesh, data={'text': 'any'}) as copies:
    now = copies.latest(fresh)
    lost = np.array(now.without_copy, int)
    write(folder, f'found-{index}', now, lost=lost, count=now.step)
    for step in steps:
      now = changed(dataclasses.replace(now, step=step), step)
      copies.save(now)
  write(folder, f'saved-{index}', now, count=now.step)


def start(mesh, kind):
  """A state with two optimizers: local ones and, outside, compression."""
  place = jax.sharding.NamedSharding(mesh, jax.P(None, 'fsdp'))
  params = {'w': jax.device_put(jnp.zeros(_SHAPE, jnp.float64), place)}
  tx = gl.local_updates(
    optax.adamw(1e-3),
    outer=optax.chain(
      gl.compress_gradients(_METHODS[kind], _AXIS), optax.sgd(1.0)
    ),
    every=4,
  )
  state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  return Snapshot(0, params, state, Progress())


def changed(now, seed):
  """Other numbers everywhere, of which some are -0 and each worker has own."""

  def one(x):
    rng = np.random.default_rng(seed)
    new = rng.normal(size=x.shape) if x.dtype.kind == 'f' else seed
    new = np.where(rng.random(x.shape) < 0.1, -0.0, new).astype(x.dtype)
    return jax.make_array_from_callback(x.shape, x.sharding, lambda i: new[i])

  data = {'next_index': seed}
  return dataclasses.replace(
    now,
    params=jax.tree.map(one, now.params),
    opt_state=jax.tree.map(one, now.opt_state),
    progress=Progress(data, bytes_sent=7 * seed),
  )


def write(folder, name, now, **more):
  """All arrays as every process sees them, as bits."""
  arrays = {}
  for part in ('params', 'opt_state'):
    for path, x in jax.tree_util.tree_leaves_with_path(getattr(now, part)):
      replicated = jax.sharding.NamedSharding(
        x.sharding.mesh, jax.sharding.PartitionSpec()
      )
      bits = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
      whole = jax.jit(lambda x: x, out_shardings=replicated)(bits)
      key = f'{part}{jax.tree_util.keystr(path)}'
      arrays[key] = np.asarray(whole).view(x.dtype)
  more['bytes_sent'] = now.progress.bytes_sent
  more['next'] = (now.progress.data or {}).get('next_index', 0)
  np.savez(folder.parent / f'{name}.npz', **arrays, **more)


if __name__ == '__main__':
  main(
    sys.argv[1],
    *map(int, sys.argv[2:4]),
    pathlib.Path(sys.argv[4]),
    sys.argv[5],
    [int(x) for x in sys.argv[6].split(',') if x],
  )
