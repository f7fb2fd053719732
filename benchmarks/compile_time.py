"""How long a training step takes to compile, by method and number of leaves.

    python -m benchmarks.compile_time [--layers 5 62] [--methods dense ...]

The model is a stack of gated layers with eight leaves each, six of them
matrices of three shapes: 5 layers have 40 leaves and 62 have 496. Every model
is measured with a leaf per layer, and with the layers stacked in 8 leaves for
`jax.lax.scan`. Every row is a process of its own on 4 virtual workers.

Compile time includes tracing and lowering. CPU seconds are user time of all
threads, so they depend less on what else runs on the machine. Memory is what a
device needs besides its arguments (`temp_size_in_bytes`).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl

METHODS = {
  'dense': (gl.Dense(), {}),
  'powersgd': (gl.PowerSGD(8), {'start_step': 1}),
  'greedylore': (gl.GreedyLore(8), {'start_step': 1}),
  'powersgd int8': (gl.PowerSGD(8), {'start_step': 1, 'factor_dtype': 'int8'}),
}
_AXIS, _WORKERS = 'data', 4


def main() -> None:
  """Prints the table, a line per method and model."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--layers', type=int, nargs='+', default=[5, 62])
  parser.add_argument('--methods', nargs='+', default=list(METHODS))
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--tokens', type=int, default=256, help='of a worker')
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--only', choices=['separate', 'stacked'])
  parser.add_argument('--row', action='store_true', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.row:
    print(json.dumps(measure(options)))
    return
  print(
    _row(
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
  )
  print(_row(*['---'] * 9))
  for layers in options.layers:
    for only in [options.only] if options.only else ['separate', 'stacked']:
      first = None
      for method in options.methods:
        row = _in_own_process(options, layers, method, only)
        first = first or row
        print(
          _row(
            f'{row["leaves"]}' + f' of {layers} layers' * (only == 'stacked'),
            method,
            f'{row["compile"]:.1f}',
            f'{row["compile_cpu"]:.1f}',
            f'{row["compile_cpu"] / first["compile_cpu"]:.2f}',
            f'{1e3 * row["step"]:.1f}',
            f'{1e3 * row["step_cpu"]:.1f}',
            f'{row["step_cpu"] / first["step_cpu"]:.2f}',
            f'{row["memory"] / 1e6:.1f}',
          ),
          flush=True,
        )


def _row(*cells: str) -> str:
  return f'| {" | ".join(cells)} |'


def _in_own_process(options, layers, method, only):
  """One row, so that no method finds what another one left in caches."""
  command = [
    sys.executable,
    '-m',
    'benchmarks.compile_time',
    '--row',
    '--layers',
    str(layers),
    '--methods',
    method,
    '--only',
    only,
    '--width',
    str(options.width),
    '--tokens',
    str(options.tokens),
    '--steps',
    str(options.steps),
  ]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, float]:
  """Compiles one method's step for one model and takes some steps."""
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', _WORKERS)
  loss_fn, params = _model(
    options.layers[0], options.width, options.only == 'stacked'
  )
  compressor, settings = METHODS[options.methods[0]]
  mesh = jax.make_mesh(
    (_WORKERS,), (_AXIS,), axis_types=(jax.sharding.AxisType.Auto,)
  )
  tx = optax.chain(
    gl.compress_gradients(compressor, _AXIS, **settings), optax.adamw(1e-3)
  )
  state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=_AXIS)
  data = jax.random.normal(
    jax.random.key(1), (_WORKERS * options.tokens, options.width)
  )
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
  for i in range(options.steps + 3):  # Warm-up, refresh, one more.
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


def _model(layers, width, stacked):
  """A loss and its parameters."""
  wide = width * 11 // 4
  shapes = {
    'query': (width, width),
    'key': (width, width),
    'value': (width, width),
    'output': (width, width),
    'up': (width, wide),
    'down': (wide, width),
    'first_gain': (width,),
    'second_gain': (width,),
  }

  def layer(x, w):
    y = x * w['first_gain']
    y = jnp.tanh(y @ w['query'] + y @ w['key']) * (y @ w['value'])
    x = x + y @ w['output']
    y = x * w['second_gain']
    return x + jax.nn.silu(y @ w['up']) @ w['down'], None

  draw = lambda key, shape: 0.02 * jax.random.normal(key, shape)
  keys = jax.random.split(jax.random.key(0), (layers, len(shapes)))
  of_layers = [
    {name: draw(k, shapes[name]) for k, name in zip(row, shapes, strict=True)}
    for row in keys
  ]

  def loss_fn(params, x):
    if stacked:
      x, _ = jax.lax.scan(layer, x, params)
    else:
      for w in params:
        x, _ = layer(x, w)
    return jnp.mean((x - 1) ** 2)

  if stacked:
    return loss_fn, jax.tree.map(lambda *xs: jnp.stack(xs), *of_layers)
  return loss_fn, of_layers


if __name__ == '__main__':
  main()
