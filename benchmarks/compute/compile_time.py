"""How long a training step takes to compile, by method and number of leaves.

    python -m benchmarks.compute.compile_time [--layers 5 62] [--methods dense]

The model is a stack of gated layers with eight leaves each, six of them
matrices of three shapes: 5 layers have 40 leaves and 62 have 496. Every model
is measured with one leaf per layer, and with the layers stacked in 8 leaves for
`jax.lax.scan`. Every row runs in its own process on 4 virtual workers.

Compile time includes tracing and lowering. CPU seconds are user time of all
threads, so they depend less on the load of the machine. Memory is what a device
needs in addition to its arguments (`temp_size_in_bytes`).
"""

import argparse
import dataclasses
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl
from train.study import tables

METHODS = {
  'dense': (gl.Dense(), {}),
  'powersgd': (gl.PowerSGD(8), {'start_step': 1}),
  'greedylore': (gl.GreedyLore(8), {'start_step': 1}),
  'powersgd int8': (gl.PowerSGD(8), {'start_step': 1, 'factor_dtype': 'int8'}),
}
_AXIS, _WORKERS = 'data', 4
_CASE = '--case'  # For the process of a row.
_COLUMNS = (
  'leaves',
  'method',
  'compiled in, s',
  'CPU, s',
  'times the first',
  'step, ms',
  'CPU, ms',
  'times the first',
  'memory, MB',
)


@dataclasses.dataclass(frozen=True)
class Case:
  """What one row measures."""

  layers: int
  method: str
  stacked: bool
  width: int
  tokens: int
  steps: int


def main() -> None:
  """Prints the table, one line per method and model."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--layers', type=int, nargs='+', default=[5, 62])
  add('--methods', nargs='+', default=list(METHODS))
  add('--width', type=int, default=64)
  add('--tokens', type=int, default=256, help='of a worker, in a step')
  add('--steps', type=int, default=20, help='that are timed')
  add('--only', choices=['separate', 'stacked'])
  given = parser.parse_args()
  print(tables.head(*_COLUMNS))
  forms = [given.only] if given.only else ['separate', 'stacked']
  of_all = {'width': given.width, 'tokens': given.tokens, 'steps': given.steps}
  for layers, form in itertools.product(given.layers, forms):
    first = None
    for method in given.methods:
      case = Case(layers, method, form == 'stacked', **of_all)
      found = _in_own_process(case)
      first = first or found
      print(_row(case, found, first), flush=True)


def _row(case: Case, found: dict[str, Any], first: dict[str, Any]) -> str:
  return tables.row(
    f'{found["leaves"]}' + f' of {case.layers} layers' * case.stacked,
    case.method,
    f'{found["compile"]:.1f}',
    f'{found["compile_cpu"]:.1f}',
    f'{found["compile_cpu"] / first["compile_cpu"]:.2f}',
    f'{1e3 * found["step"]:.1f}',
    f'{1e3 * found["step_cpu"]:.1f}',
    f'{found["step_cpu"] / first["step_cpu"]:.2f}',
    f'{found["memory"] / 1e6:.1f}',
  )


def _in_own_process(case: Case) -> dict[str, Any]:
  """Measures without anything that another method left in caches."""
  program = [sys.executable, '-m', 'benchmarks.compute.compile_time']
  program += [_CASE, json.dumps(dataclasses.asdict(case))]
  done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case) -> dict[str, float]:
  """Compiles one method's step for one model and takes some steps."""
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', _WORKERS)
  loss_fn, params = _model(case)
  compressor, options = METHODS[case.method]
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((_WORKERS,), (_AXIS,), axis_types=auto)
  tx = optax.chain(
    gl.compress_gradients(compressor, _AXIS, **options), optax.adamw(1e-3)
  )
  state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=_AXIS)
  shape = _WORKERS * case.tokens, case.width
  data = jax.random.normal(jax.random.key(1), shape)
  place = lambda x, *spec: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  )
  params, data = place(params), place(data, _AXIS)
  begin, begin_cpu = time.perf_counter(), _cpu_seconds()
  compiled = step.lower(params, state, data).compile()
  result = {
    'leaves': len(jax.tree.leaves(params)),
    'compile': time.perf_counter() - begin,
    'compile_cpu': _cpu_seconds() - begin_cpu,
    'memory': compiled.memory_analysis().temp_size_in_bytes,
  }
  seconds, cpu_seconds = [], []
  for i in range(case.steps + 3):  # Warm-up, refresh, one more.
    begin, begin_cpu = time.perf_counter(), _cpu_seconds()
    params, state, _ = jax.block_until_ready(compiled(params, state, data))
    if i >= 3:
      seconds.append(time.perf_counter() - begin)
      cpu_seconds.append(_cpu_seconds() - begin_cpu)
  return result | {
    'step': statistics.median(seconds),
    'step_cpu': statistics.mean(cpu_seconds),
  }


def _cpu_seconds() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _model(case: Case):
  """A loss and its parameters."""
  width, wide = case.width, case.width * 11 // 4
  shapes = {
    **dict.fromkeys(('query', 'key', 'value', 'output'), (width, width)),
    'up': (width, wide),
    'down': (wide, width),
    **dict.fromkeys(('first_gain', 'second_gain'), (width,)),
  }

  def layer(x, w):
    y = x * w['first_gain']
    y = jnp.tanh(y @ w['query'] + y @ w['key']) * (y @ w['value'])
    x = x + y @ w['output']
    y = x * w['second_gain']
    return x + jax.nn.silu(y @ w['up']) @ w['down'], None

  draw = lambda key, shape: 0.02 * jax.random.normal(key, shape)
  keys = jax.random.split(jax.random.key(0), (case.layers, len(shapes)))
  of_layers = [
    {name: draw(k, shapes[name]) for k, name in zip(row, shapes, strict=True)}
    for row in keys
  ]

  def loss_fn(params, x):
    if case.stacked:
      x, _ = jax.lax.scan(layer, x, params)
    else:
      for w in params:
        x, _ = layer(x, w)
    return jnp.mean((x - 1) ** 2)

  if case.stacked:
    return loss_fn, jax.tree.map(lambda *xs: jnp.stack(xs), *of_layers)
  return loss_fn, of_layers


if __name__ == '__main__':
  if sys.argv[1:2] == [_CASE]:
    print(json.dumps(measure(Case(**json.loads(sys.argv[2])))))
  else:
    main()
