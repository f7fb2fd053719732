"""Ways to run an update on several workers, for the tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import greedylore_jax as gl

AXIS = 'data'
# Relative errors that count as rounding, for every test of an identity.
FLOAT32_ROUNDING = 1e-5
# The same between two programs that feed errors back over ten steps, in which
# rounding grows: float32 differs from float64 by up to 3e-5.
FLOAT32_FEEDBACK = 1e-4


def mesh_of(n):
  """A mesh of n workers on virtual devices."""
  devices = np.array(jax.devices()[:n])
  return jax.sharding.Mesh(devices, (AXIS,))


def simulated(tx, n):
  """`tx.update` on n workers of one device: (grads [n, ...], state) -> same.

  Updates, count and compressor states come out without a worker axis, which
  proves that they do not depend on the worker.
  """

  def axes(tree):
    specs = gl.state_partition_specs(tree, AXIS)
    return jax.tree.map(lambda spec: 0 if spec else None, specs)

  def run(grads, state):
    assert jax.tree.leaves(grads)[0].shape[0] == n
    one = lambda x: x[:, None]  # [n, ...] -> [n, 1, ...]; vmap takes n away.
    states = axes(state)
    inner = jax.vmap(
      tx.update, in_axes=(0, states), out_axes=(None, states), axis_name=AXIS
    )
    updates, state = inner(grads, map_errors(one, state))
    return updates, map_errors(lambda x: x[:, 0], state)

  return jax.jit(run)


def over_workers(step):
  """A worker's step on workers of one device: (params, state, own) -> same.

  `own` is [n, ...], as is what the state has per worker. All else comes out
  without a worker axis, which proves that it does not depend on the worker.
  """

  def run(params, state, own):
    specs = gl.state_partition_specs(state, AXIS)
    axes = jax.tree.map(lambda spec: 0 if spec else None, specs)
    each = lambda f, tree: jax.tree.map(
      lambda axis, x: x if axis is None else f(x),
      axes,
      tree,
      is_leaf=lambda x: x is None,
    )
    params, state = jax.vmap(
      step, in_axes=(None, axes, 0), out_axes=(None, axes), axis_name=AXIS
    )(params, each(lambda x: x[:, None], state), own)
    return params, each(lambda x: x[:, 0], state)

  return jax.jit(run)


def optimized(tx):
  """Steps of an optimizer on workers of one device: (params, state, grads)."""

  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return over_workers(step)


def compiled_update(tx, params, n=4):
  """The program of a bare update, without loss and model around it."""
  mesh = mesh_of(n)
  state = gl.init_state(tx, params, mesh, axis_name=AXIS)
  specs = gl.state_partition_specs(state, AXIS)
  p = jax.sharding.PartitionSpec

  def update(grads, state):
    return tx.update(jax.tree.map(lambda g: g[0], grads), state)

  sharded = jax.shard_map(
    update, mesh=mesh, in_specs=(p(AXIS), specs), out_specs=(p(), specs)
  )
  grads = jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), params)
  return jax.jit(sharded).lower(grads, state).compile()


def sent_by_phase(collectives, n=4):
  """What each of n workers sends, as in `Plan.rounds`."""
  sent = {}
  for c in collectives:
    size = c.size // n if c.kind == 'all-gather' else c.size
    sent.setdefault(c.phase, []).append((c.kind, c.dtype, size))
  return sent


def fresh(tx, shapes, n):
  """The state of `tx` on n workers before the first step."""
  return gl.expand(tx.init(zeros(shapes)), n, exact=False)


def map_errors(function, state):
  """Applies a function to the errors in a bare `CompressState`."""
  return state._replace(error=jax.tree.map(function, state.error))


def random_grads(shapes, n, seed):
  """Gradients of n workers, a common part and noise, leaves [n, *shape]."""
  rng = np.random.default_rng(seed)
  return {
    name: np.asarray(
      rng.normal(size=shape) + 0.5 * rng.normal(size=(n, *shape)), np.float32
    )
    for name, shape in shapes.items()
  }


def relative(x, y):
  """Frobenius norm of x - y over that of y, in float64."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  return np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-30)


def check_conserved(grads, errors, updates, new_errors):
  """Asserts that nothing is lost: mean gradient plus mean error before is
  update plus mean error after.

  A leaf without an error has to be averaged. All are trees of named leaves.
  """
  for name, update in updates.items():
    came, went = grads[name].mean(0), update
    if jax.tree.leaves(errors[name]):
      came = came + errors[name].mean(0)
      went = went + new_errors[name].mean(0)
    assert relative(went, came) < FLOAT32_ROUNDING, name


def zeros(shapes, dtype=jnp.float32):
  """Parameters of the given shapes."""
  return {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}
