"""One of two processes: COORDINATOR INDEX FOLDER.

Writes its parameters, and saves and restores states of both kinds.
"""

import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

import greedylore_jax as gl
import job
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
  for kind, compressor in {'mean': gl.PowerSGD(2), 'own': gl.Sign()}.items():
    restores(compressor, params, mesh, pathlib.Path(folder) / kind)


def restores(compressor, params, mesh, folder):
  """Checks that what Orbax saves in two processes comes back from it."""
  tx = gl.compress_gradients(compressor, workers.AXIS)
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  fill = lambda x: jax.make_array_from_callback(
    x.shape,
    x.sharding,
    lambda i: np.full((1, *x.shape[1:]), i[0].start, x.dtype),
  )
  state = state._replace(error=jax.tree.map(fill, state.error))
  template = gl.state_template(tx, params, mesh, axis_name=workers.AXIS)
  with ocp.StandardCheckpointer() as files:
    files.save(folder.resolve(), gl.collapse(state))
    files.wait_until_finished()
    saved = files.restore(folder.resolve(), template)
  placed = gl.place_state(
    saved, mesh, axis_name=workers.AXIS, tx=tx, params=params
  )
  (error,) = placed.error['w'].addressable_shards
  linear = isinstance(compressor, gl.PowerSGD)
  np.testing.assert_array_equal(
    error.data, 0.5 if linear else jax.process_index()
  )


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
