"""What LoRDO reaches beside local steps of AdamW with rounds of equal length.

On the model and the text of configs/studies/family.py, four workers with one
sequence per step each, simulated on one device. Command:
`python -m experiments.lordo [NAME ...]`; each run appends a line to
results.jsonl and takes minutes.
"""

import functools
import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl
from train import tasks
from train.config import reader

STEPS, EVERY, RANK, WORKERS, HELD_OUT = 300, 10, 32, 4, 64
AXIS = 'data'
RESULTS = pathlib.Path(__file__).with_name('results.jsonl')
COMMIT = subprocess.run(
  ['git', 'rev-parse', '--short', 'HEAD'],
  capture_output=True,
  text=True,
  check=True,
).stdout.strip()
PLAIN = {'learning_rate': 1.0}
NESTEROV = {'learning_rate': 0.7, 'momentum': 0.9, 'nesterov': True}


def clipped_adamw(rate):
  """The inner optimizer of the others."""
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))


def average(then):
  """A dense mean, then another optimizer."""
  return optax.chain(gl.average_gradients(AXIS), then)


def local(rate, outer):
  """Local steps of AdamW."""
  return gl.local_updates(
    clipped_adamw(rate), outer=average(optax.sgd(**outer)), every=EVERY
  )


def lordo(rate, outer, **options):
  """LoRDO, with the weight decay of `optax.adamw`."""
  options = {'clip_norm': 1.0, 'weight_decay': 1e-4, 'rank': RANK} | options
  return gl.lordo(
    rate,
    axis_name=AXIS,
    every=EVERY,
    outer=average(optax.sgd(**outer)),
    **options,
  )


# From a name to (optimizer of a rate, number of workers).
RUNS = {
  'alone': (lambda rate: average(clipped_adamw(rate)), 1),
  'every step': (lambda rate: average(clipped_adamw(rate)), WORKERS),
  'local, plain': (lambda rate: local(rate, PLAIN), WORKERS),
  'local, nesterov': (lambda rate: local(rate, NESTEROV), WORKERS),
  'lordo, plain': (lambda rate: lordo(rate, PLAIN), WORKERS),
  'lordo, nesterov': (lambda rate: lordo(rate, NESTEROV), WORKERS),
  'lordo, plain, no feedback': (
    lambda rate: lordo(rate, PLAIN, error_feedback=False),
    WORKERS,
  ),
  'lordo, plain, w=1': (
    lambda rate: lordo(rate, PLAIN, quasi_hyperbolic=1.0),
    WORKERS,
  ),
  'lordo, plain, w=0.5': (
    lambda rate: lordo(rate, PLAIN, quasi_hyperbolic=0.5),
    WORKERS,
  ),
  'lordo, plain, b2=0.95': (lambda rate: lordo(rate, PLAIN, b2=0.95), WORKERS),
  'lordo, plain, b2=0.95, no feedback': (
    lambda rate: lordo(rate, PLAIN, b2=0.95, error_feedback=False),
    WORKERS,
  ),
}


def step_of(tx, loss_fn, workers):
  """A jitted step of all workers: (params, state, windows) -> same, loss."""

  def axes(tree):
    specs = gl.state_partition_specs(tree, AXIS)
    return jax.tree.map(lambda spec: 0 if spec else None, specs)

  def one(params, state, windows):
    own = gl.local_params(params, state)
    loss, grads = jax.value_and_grad(loss_fn)(own, windows)
    updates, state = tx.update(grads, state, params)
    loss = jax.lax.pmean(loss, AXIS)
    return optax.apply_updates(params, updates), state, loss

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, windows):
    specs = axes(state)
    each = lambda function: jax.tree.map(
      lambda axis, x: x if axis is None else function(x),
      specs,
      state,
      is_leaf=lambda x: x is None,
    )
    # `vmap` takes the workers' axis, and each worker has an axis of one.
    state = each(lambda x: x[:, None])
    params, state, loss = jax.vmap(
      one,
      in_axes=(None, specs, 0),
      out_axes=(None, specs, None),
      axis_name=AXIS,
    )(params, state, windows.reshape(workers, -1, windows.shape[-1]))
    state = jax.tree.map(
      lambda axis, x: x if axis is None else x[:, 0],
      specs,
      state,
      is_leaf=lambda x: x is None,
    )
    return params, state, loss

  return step


def run(name, rate):
  """Trains and returns a line of results."""
  make, workers = RUNS[name]
  config = reader.load('configs/studies/family.py')
  task = tasks.load(config)
  tx, params = make(rate), task.init(config.seed)
  state = gl.expand(tx.init(params), workers, exact=False)
  step = step_of(tx, task.loss, workers)
  batches, began = task.train(WORKERS, 0, 1), time.perf_counter()
  for i in range(STEPS):
    windows = jnp.asarray(next(batches))[:workers]
    params, state, loss = step(params, state, windows)
    if i % 100 == 99:
      print(f'{name} at {rate}: step {i + 1}, loss {float(loss):.3f}')
  held_out = task.held_out(HELD_OUT)
  outputs = jax.jit(task.outputs)(params, (), held_out)
  return {
    'name': name,
    'rate': rate,
    'steps': STEPS,
    'nats': round(task.score(jax.device_get(outputs), held_out)['loss'], 4),
    'seconds': round(time.perf_counter() - began),
    'commit': COMMIT,
    'date': time.strftime('%Y-%m-%d'),
  }


def main(names):
  """Runs the named ones, NAME or NAME@RATE; all at two rates by default."""
  chosen = names or [f'{x}@{rate}' for rate in (1e-3, 3e-3) for x in RUNS]
  for one in chosen:
    name, _, rate = one.partition('@')
    line = run(name, float(rate or 1e-3))
    print(line, flush=True)
    with RESULTS.open('a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  main(sys.argv[1:])
