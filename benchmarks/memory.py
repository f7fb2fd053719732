"""Memory per device of a training step, from the compiled program.

    python -m benchmarks.memory CONFIG [--replica R] [--fsdp F]

Nothing is allocated: the step is compiled for R x F virtual devices from the
shapes of parameters, state and batch, and XLA says what it keeps (arguments)
and what it needs besides at its peak (temporary). XLA's CPU compiler does not
try to save memory as those for accelerators do, so the second is an upper
bound.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np
import optax

import greedylore_jax as gl
from train.config import machines
from train.config import reader
from train.distributed import cluster
from train.models import llama
from train.models import llama_rules

_METHODS = {
  'dense': gl.Dense(),
  'greedylore r=32': gl.GreedyLore(32),
  'greedylore r=32, bfloat16 errors': gl.GreedyLore(32),
  'powersgd r=32': gl.PowerSGD(32),
}
_VOCAB = 32_000
_AXIS = machines.REPLICA


def main() -> None:
  """Prints the table, a line per method."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('config')
  parser.add_argument('--replica', type=int, default=2)
  parser.add_argument('--fsdp', type=int, default=8)
  parser.add_argument('--layers', type=int)
  parser.add_argument('--unrolled', action='store_true')
  options = parser.parse_args()
  run = reader.load(options.config)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', options.replica * options.fsdp)
  shape = options.replica, options.fsdp, 1
  axes = machines.REPLICA, machines.FSDP, machines.TENSOR
  mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(shape), axes)
  model = dataclasses.replace(
    run.model,
    scan=not options.unrolled,
    layers=options.layers or run.model.layers,
  )
  print(f'A device of {dict(mesh.shape)}; {model.layers} layers.\n')
  print(
    _row(
      'method',
      'kept, GB',
      'besides, GB',
      'sum, GB',
      'over dense, GB',
      'by the plan, GB',
      'sends, MB',
      'largest array within a worker, MB: refresh',
      'compressed step',
      'compiled in, s',
    )
  )
  print(_row(*['---'] * 10))
  dense = 0
  for name, compressor in _METHODS.items():
    error_dtype = 'bfloat16' if 'bfloat16' in name else None
    begin = time.perf_counter()
    compiled, plan = _compiled(run, model, mesh, compressor, error_dtype)
    seconds = time.perf_counter() - begin
    kept, needed = _memory(compiled)
    found = gl.collectives(compiled)
    sent = sum(
      c.bytes
      for c in found
      if _AXIS in c.axes and c.phase in ('compress', 'dense')
    )
    dense = dense or kept + needed
    planned = plan.state_bytes / plan.devices_per_worker
    cells = [
      kept / 1e9,
      needed / 1e9,
      (kept + needed) / 1e9,
      (kept + needed - dense) / 1e9,
      planned / 1e9,
      sent / 1e6,
      _largest(found, 'refresh') / 1e6,
      _largest(found, 'compress') / 1e6,
    ]
    row = _row(name, *(f'{x:.2f}' for x in cells), f'{seconds:.0f}')
    print(row, flush=True)


def _row(*cells: str) -> str:
  return f'| {" | ".join(cells)} |'


def _largest(found: list[gl.Collective], phase: str) -> int:
  """Bytes of the largest array that a worker's devices hand each other."""
  return max(
    (c.bytes for c in found if c.phase == phase and _AXIS not in c.axes),
    default=0,
  )


def _memory(compiled: jax.stages.Compiled) -> tuple[int, int]:
  """Bytes that a device keeps between steps, and needs besides in one."""
  memory = compiled.memory_analysis()
  beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes, memory.temp_size_in_bytes + beside


def _compiled(run, model, mesh, compressor, error_dtype):
  """The step of a run, compiled from shapes, and its plan."""
  shapes = jax.eval_shape(lambda: llama.init(model, _VOCAB, 0))
  params = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    cluster.shardings(shapes, llama_rules.partition_specs(shapes), mesh),
  )
  options = {
    'error_dtype': error_dtype,
    'start_step': 1,
    'weight_dimension_numbers': llama_rules.matrix_dimension_numbers,
  }
  plan = gl.plan(
    compressor,
    params,
    num_workers=mesh.shape[_AXIS],
    devices_per_worker=mesh.size // mesh.shape[_AXIS],
    **options,
  )
  tx = optax.chain(
    gl.compress_gradients(compressor, _AXIS, **options),
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-3),
  )
  state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  loss_fn = llama.make_loss(model, _VOCAB)
  step = gl.make_train_step(
    loss_fn, tx, mesh, axis_name=_AXIS, accumulate_steps=run.accumulate_steps
  )
  batch = jax.ShapeDtypeStruct(
    (run.batch_size, run.data.sequence_length + 1),
    np.int32,
    sharding=cluster.rows_on(mesh),
  )
  return step.lower(params, state, batch).compile(), plan


if __name__ == '__main__':
  main()
