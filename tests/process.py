"""One of two processes: COORDINATOR INDEX FOLDER. Writes its parameters."""

import pathlib
import sys

import jax
import numpy as np

import greedylore_jax as gl
import test_distributed as job
import workers


def main(coordinator, index, folder):
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(coordinator, 2, index)
  mesh = jax.sharding.Mesh(np.array(jax.devices()), (workers.AXIS,))
  replicated = jax.sharding.NamedSharding(mesh, job.P())
  divided = jax.sharding.NamedSharding(mesh, job.P(workers.AXIS))
  params = jax.device_put(job.initial_params(), replicated)
  tx = job.chain()
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(job.loss_fn, tx, mesh, axis_name=workers.AXIS)
  for batch in job.batches(2):
    mine = jax.tree.map(lambda x: x[index : index + 1], batch)
    mine = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(divided, x), mine
    )
    params, state, _ = step(params, state, mine)
  local = {k: np.asarray(v.addressable_data(0)) for k, v in params.items()}
  np.savez(pathlib.Path(folder) / f'{index}.npz', **local)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
