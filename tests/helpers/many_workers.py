"""Two steps of each quantized or sparse message, a worker on each device.

Prints the name of each that sent what was planned and lost nothing.
"""

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

import greedylore_jax as gl
import workers

SHAPES = {'w': (16, 24), 'layers': (2, 8, 40), 'bias': (5,)}
METHODS = {
  **{f'quantize {x}': (gl.Quantize(x), {}) for x in (8, 4, 2)},
  **{
    f'powersgd {x}': (gl.PowerSGD(3), {'factor_dtype': x})
    for x in ('int8', 'int4', 'int2')
  },
  'greedylore int4': (
    gl.GreedyLore(3, 2),
    {'factor_dtype': 'int4', 'dense_dtype': 'int8'},
  ),
  'chunk_top_k': (gl.ChunkTopK(chunk=8, keep=8, bits=2), {}),
  'threshold_top_k': (gl.ThresholdTopK(0.1, update_interval=2), {}),
  'count_sketch': (gl.CountSketch(density=0.05), {}),
  'split_columns': (gl.SplitColumns(0.2, 2), {}),
}


def main():
  n = jax.device_count()
  params = workers.zeros(SHAPES)
  mesh = workers.mesh_of(n)
  grads = workers.random_grads(SHAPES, n, seed=0)
  placed = jax.device_put(
    grads, NamedSharding(mesh, PartitionSpec(workers.AXIS))
  )
  for name, (compressor, dtypes) in METHODS.items():
    options = {'start_step': 0, 'min_compression_rate': 0, **dtypes}
    tx = gl.compress_gradients(compressor, workers.AXIS, **options)
    program = workers.compiled_update(tx, params, n)
    plan = gl.plan(compressor, params, num_workers=n, **options)
    sent = workers.sent_by_phase(gl.collectives(program), n)
    assert sent == plan.rounds, (name, sent, plan.rounds)
    state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
    for _ in range(2):
      before = jax.device_get(state.error)
      updates, state = jax.block_until_ready(program(placed, state))
      copies = [
        [np.asarray(x.data) for x in leaf.addressable_shards]
        for leaf in jax.tree.leaves(updates)
      ]
      assert all((x == leaf[0]).all() for leaf in copies for x in leaf), name
      errors = jax.device_get(state.error)
      workers.check_conserved(grads, before, jax.device_get(updates), errors)
    print(name, flush=True)


if __name__ == '__main__':
  main()
