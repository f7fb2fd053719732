"""Memory per device of a training step, from the compiled program.

    python -m benchmarks.compute.memory CONFIG [--replica R] [--fsdp F]

Nothing is allocated: the step is compiled for R x F virtual devices from the
shapes of parameters, state and batch. XLA reports what it keeps (arguments) and
what it needs in addition at its peak (temporary). XLA's CPU compiler does not
save memory as those for accelerators do, so the second is an upper bound.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np
import optax

import greedylore_jax as gl
from train.config import machines, reader
from train.distributed import cluster
from train.models import llama, llama_rules
from train.study import tables

_METHODS = {
  'dense': (gl.Dense(), None),
  'greedylore r=32': (gl.GreedyLore(32), None),
  'greedylore r=32, bfloat16 errors': (gl.GreedyLore(32), 'bfloat16'),
  'powersgd r=32': (gl.PowerSGD(32), None),
}
_VOCAB = 32_000
_AXIS = machines.REPLICA
_COLUMNS = (
  'method',
  'kept, GB',
  'temporary, GB',
  'sum, GB',
  'over dense, GB',
  'by the plan, GB',
  'sends, MB',
  'largest array within a worker, MB: refresh',
  'compressed step',
  'compiled in, s',
)


def main() -> None:
  """Prints the table, one line per method."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('config')
  add('--replica', type=int, default=2, help='workers')
  add('--fsdp', type=int, default=8, help='devices of a worker')
  add('--layers', type=int, help='of the model; default: of the configuration')
  add('--unrolled', action='store_true', help='compile layers one by one')
  given = parser.parse_args()
  run = reader.load(given.config)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', given.replica * given.fsdp)
  axes = machines.REPLICA, machines.FSDP, machines.TENSOR
  devices = np.array(jax.devices()).reshape(given.replica, given.fsdp, 1)
  mesh = jax.sharding.Mesh(devices, axes)
  layers = given.layers or run.model.layers
  model = dataclasses.replace(run.model, scan=not given.unrolled, layers=layers)
  run = dataclasses.replace(run, model=model)
  print(f'A device of {dict(mesh.shape)}; {layers} layers.\n')
  print(tables.head(*_COLUMNS))
  dense = 0
  for name, (compressor, error_dtype) in _METHODS.items():
    begin = time.perf_counter()
    compiled, plan = _compiled(run, mesh, compressor, error_dtype)
    seconds = time.perf_counter() - begin
    kept, temporary = _memory(compiled)
    found = gl.collectives(compiled)
    sent = sum(
      c.bytes
      for c in found
      if _AXIS in c.axes and c.phase in ('compress', 'dense')
    )
    dense = dense or kept + temporary
    cells = [
      kept / 1e9,
      temporary / 1e9,
      (kept + temporary) / 1e9,
      (kept + temporary - dense) / 1e9,
      plan.state_bytes / plan.devices_per_worker / 1e9,
      sent / 1e6,
      _largest(found, 'refresh') / 1e6,
      _largest(found, 'compress') / 1e6,
    ]
    row = tables.row(name, *(f'{x:.2f}' for x in cells), f'{seconds:.0f}')
    print(row, flush=True)


def _largest(found: list[gl.Collective], phase: str) -> int:
  """Bytes of the largest array that the devices of a worker exchange."""
  return max(
    (c.bytes for c in found if c.phase == phase and _AXIS not in c.axes),
    default=0,
  )


def _memory(compiled: jax.stages.Compiled) -> tuple[int, int]:
  """Bytes that a device keeps between steps, and needs in addition in one."""
  memory = compiled.memory_analysis()
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes, memory.temp_size_in_bytes + outputs


def _compiled(run, mesh, compressor, error_dtype):
  """The step of a run, compiled from shapes, and its plan."""
  shapes = jax.eval_shape(lambda: llama.init(run.model, _VOCAB, 0))
  specs = llama_rules.partition_specs(shapes)
  params = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    cluster.shardings(shapes, specs, mesh),
  )
  options = {
    'error_dtype': error_dtype,
    'start_step': 1,
    'weight_dimension_numbers': llama_rules.matrix_dimension_numbers,
  }
  workers = mesh.shape[_AXIS]
  plan = gl.plan(
    compressor,
    params,
    num_workers=workers,
    devices_per_worker=mesh.size // workers,
    **options,
  )
  tx = optax.chain(
    gl.compress_gradients(compressor, _AXIS, **options),
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-3),
  )
  state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  step = gl.make_train_step(
    llama.make_loss(run.model, _VOCAB),
    tx,
    mesh,
    axis_name=_AXIS,
    accumulate_steps=run.accumulate_steps,
  )
  batch = jax.ShapeDtypeStruct(
    (run.batch_size, run.data.sequence_length + 1),
    np.int32,
    sharding=cluster.rows_on(mesh),
  )
  return step.lower(params, state, batch).compile(), plan


if __name__ == '__main__':
  main()
