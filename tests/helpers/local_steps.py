"""Rounds of local steps for the tests, on one device and on a mesh."""

import re

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl
import workers


def gradient(y, t):
  """A worker's gradient, with a curvature that differs by entry."""
  return jax.tree.map(lambda y, t: jnp.cosh(0.3 * t) * (y - t), y, t)


def simulated(tx, n):
  """A step on n workers of one device: (params, state, targets) -> same."""

  def one(params, state, t):
    local = gl.local_params(params, state)
    updates, state = tx.update(gradient(local, t), state, params)
    return optax.apply_updates(params, updates), state

  return workers.over_workers(one)


def trained(tx, n, steps, t, params):
  """The same after some steps from fresh states."""
  state = gl.expand(tx.init(params), n, exact=False)
  step = simulated(tx, n)
  for _ in range(steps):
    params, state = step(params, state, t)
  return params, state


def on_mesh(n, tx, **options):
  mesh = workers.mesh_of(n)
  params = {'w': jnp.ones((6, 12)), 'gain': jnp.ones(12)}
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)

  def loss_fn(p, x):
    return jnp.mean((jnp.tanh(x @ p['w']) * p['gain'][None] - 1) ** 2)

  step = gl.make_train_step(
    loss_fn, tx, mesh, axis_name=workers.AXIS, donate=False, **options
  )
  return mesh, params, state, step


def batch_of(step, n=4):
  return jax.random.normal(jax.random.key(step), (2 * n, 6))


def entry_computation(compiled):
  """The text of the computation that runs in every step."""
  return re.search(
    r'^ENTRY .*?^}', compiled.as_text(), re.MULTILINE | re.DOTALL
  )[0]
