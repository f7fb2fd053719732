"""Does every transformation pass what optax asks of contributed ones?

These are the questions of optax's own `contrib/_common_test.py`, for one worker
where the number of workers does not matter.
"""

from collections.abc import Callable
import functools
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'w': (8, 16), 'stack': (2, 6, 10), 'gain': (16,)}
RATE = 0.1


def local_updates(axis_name, every, fragments):
  return gl.local_updates(
    optax.adamw(RATE),
    outer=optax.chain(
      gl.compress_gradients(gl.PowerSGD(2), axis_name),
      optax.sgd(0.7, momentum=0.9, nesterov=True),
    ),
    every=every,
    fragments=fragments,
  )


class Case(NamedTuple):
  """How to make a transformation, and what cannot be an array."""

  factory: Callable[..., optax.GradientTransformation]
  arguments: dict
  static: tuple[str, ...] = ()

  def make(self, **others):
    return self.factory(**{**self.arguments, **others})

  def inject(self, **others):
    wrapped = optax.inject_hyperparams(self.factory, static_args=self.static)
    return wrapped(**{**self.arguments, **others})


def link(factory, static=('seed',), **arguments):
  return Case(factory, arguments, static)


compress = functools.partial(link, gl.compress_gradients)
CASES = {
  'average_gradients': link(gl.average_gradients, static=()),
  'greedylore': link(
    gl.greedylore,
    ('rank', 'update_interval', 'probes', 'seed'),
    rank=2,
    update_interval=3,
    start_step=1,
  ),
  'powersgd': compress(compressor=gl.PowerSGD(2)),
  'int8': compress(
    compressor=gl.PowerSGD(2), factor_dtype='int8', dense_dtype='int4'
  ),
  'a list': compress(
    compressor=[('stack', gl.Quantize(2)), ('', gl.TopK(0.1, 'own'))],
    error_decay=0.9,
  ),
  'chunk_top_k': compress(compressor=gl.ChunkTopK(chunk=8, keep=4)),
  'count_sketch': compress(compressor=gl.CountSketch(density=0.1)),
  'tsr_adam': Case(
    gl.tsr_adam,
    # Adam would divide entries of a core that are nothing but rounding by eps.
    {'learning_rate': RATE, 'rank': 2, 'update_interval': 2, 'eps': 1e-2},
    (
      *('rank', 'update_interval', 'embedding_update_interval'),
      *('oversampling', 'power_iterations', 'min_compression_rate', 'seed'),
    ),
  ),
  'frugal': Case(
    gl.frugal,
    {'learning_rate': RATE, 'compressor': gl.Quantize(8), 'weight_decay': 0.1},
    ('density', 'update_interval', 'min_compression_rate', 'seed'),
  ),
  'sketched_amsgrad': Case(
    gl.sketched_amsgrad,
    {'learning_rate': RATE, 'density': 0.2, 'start_step': 1, 'clip_norm': 1.0},
    ('density', 'columns', 'rows', 'seed'),
  ),
  'local_updates': Case(
    local_updates, {'every': 2, 'fragments': 2}, ('every', 'fragments')
  ),
  'lordo': Case(
    gl.lordo,
    {'learning_rate': RATE, 'rank': 2, 'every': 2, 'clip_norm': 1.0},
    (
      *('rank', 'every', 'update_interval', 'quasi_hyperbolic', 'seed'),
      *('min_compression_rate', 'start_step'),
    ),
  ),
}


def compiled(names):
  """Cases by name; optimizers that take long to compile are left to slow."""
  long = {'frugal', 'sketched_amsgrad', 'local_updates', 'lordo'}
  return pytest.mark.parametrize(
    'name',
    [
      pytest.param(x, marks=pytest.mark.slow) if x in long else x for x in names
    ],
  )


every_case = pytest.mark.parametrize('name', CASES)
# One for each transformation, for what takes seconds to compile.
every_transformation = compiled(
  x for x in CASES if x not in ('powersgd', 'int8', 'a list', 'count_sketch')
)
with_a_rate = compiled(
  x for x in CASES if 'learning_rate' in CASES[x].arguments
)


def draw(seed, dtype=jnp.float32):
  return {
    name: jnp.asarray(x[0], dtype)
    for name, x in workers.random_grads(SHAPES, 1, seed).items()
  }


def types(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def assert_close(tree, expected):
  """Of equal leaves; no weight decay and one of 0 differ in structure."""
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
  for x, y in pairs:
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def on_mesh(tx):
  """The step, its parameters and its state on two workers, and a batch."""
  mesh = workers.mesh_of(2)
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = jax.device_put(draw(0), everywhere)
  step = gl.make_train_step(
    lambda p, x: sum(jnp.mean((p[name][None] - x[name]) ** 2) for name in p),
    tx,
    mesh,
    axis_name=workers.AXIS,
    donate=False,
  )
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  return step, params, state, workers.random_grads(SHAPES, 2, seed=3)


def run(tx, steps):
  """The parameters after steps of one worker."""

  @jax.jit
  def step(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params = draw(0)
  state = jax.jit(tx.init)(params)
  for i in range(steps):
    params, state = step(params, state, draw(i + 1))
  return params


def test_every_public_transformation_is_asked():
  public = {
    name
    for name, function in vars(gl).items()
    if inspect.isfunction(function)
    and inspect.signature(function).return_annotation
    is optax.GradientTransformation
  }
  asked = {case.factory.__name__ for case in CASES.values()}
  assert asked == public


@every_case
def test_unknown_extra_arguments_are_accepted(name):
  tx = CASES[name].make(axis_name=None)
  params, state = draw(0), jax.eval_shape(tx.init, draw(0))
  update = functools.partial(tx.update, value=1.0, unexpected='x')
  updates, _ = jax.eval_shape(update, draw(1), state, params)
  assert types(updates) == types(params)


def test_extra_arguments_reach_the_inner_and_the_outer_optimizer():
  def recorder(seen):
    def update(updates, state, params=None, *, value, **extra):
      seen.append((value, extra))
      return updates, state

    return optax.GradientTransformationExtraArgs(
      lambda params: optax.EmptyState(), update
    )

  inner, outer = [], []
  tx = gl.local_updates(
    recorder(inner),
    outer=optax.chain(gl.average_gradients(None), recorder(outer)),
    every=1,
  )
  tx.update(draw(0), tx.init(draw(0)), draw(0), value=3.0, other='x')
  assert inner == [(3.0, {'other': 'x'})]
  assert inner == outer[:1]


@every_case
def test_injected_hyperparameters_change_no_type(name):
  params, tx = draw(0), CASES[name].make(axis_name=None)
  injected = CASES[name].inject(axis_name=None)
  state = jax.eval_shape(injected.init, params)
  updates, new = jax.eval_shape(injected.update, draw(1), state, params)
  assert types(updates) == types(params)
  assert types(new) == types(state)
  own = jax.eval_shape(tx.init, params)
  assert jax.tree.leaves(types(new.inner_state)) == jax.tree.leaves(types(own))


@every_transformation
def test_injected_hyperparameters_give_the_same_updates_and_state(name):
  params, tx = draw(0), CASES[name].make(axis_name=None)
  injected = CASES[name].inject(axis_name=None)
  state, other = jax.jit(tx.init)(params), jax.jit(injected.init)(params)
  update, injected_update = jax.jit(tx.update), jax.jit(injected.update)
  for i in range(3):
    updates, state = update(draw(i), state, params)
    others, other = injected_update(draw(i), other, params)
    assert_close(others, updates)
    assert_close(other.inner_state, state)


@with_a_rate
def test_an_injected_rate_can_be_changed_on_the_mesh(name):
  tx = CASES[name].inject(axis_name=workers.AXIS)
  step, params, state, batch = on_mesh(tx)
  moved = {}
  for rate in (RATE, 0.0):
    state.hyperparams['learning_rate'] = jnp.float32(rate)
    held = params, state
    for _ in range(2):
      held = jax.block_until_ready(step(*held, batch)[:2])
    moved[rate] = workers.relative(held[0]['w'], params['w'])
  assert moved[RATE] > 1e-3
  assert moved[0.0] == 0


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
@every_case
def test_updates_and_state_keep_their_types(name, dtype):
  """In a `jax.lax.cond`, which does not forgive another dtype."""
  with jax.enable_x64(dtype == 'float64'):
    params, grads = draw(0, dtype), draw(1, dtype)
    tx = CASES[name].make(axis_name=None)
    state = jax.eval_shape(tx.init, params)

    def step(state, takes_it):
      take = lambda: tx.update(grads, state, params)
      return jax.lax.cond(takes_it, take, lambda: (grads, state))

    updates, new = jax.eval_shape(step, state, True)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert types(new) == types(state)


@every_transformation
def test_the_state_keeps_its_sharding_and_compiles_one_program(name):
  step, *held, batch = on_mesh(CASES[name].make(axis_name=workers.AXIS))
  start = held
  for _ in range(2):
    held = jax.block_until_ready(step(*held, batch)[:2])
  assert types(list(held)) == types(start)
  for new, old in zip(
    jax.tree.leaves(held), jax.tree.leaves(start), strict=True
  ):
    assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
  assert step.jitted._cache_size() == 1


@every_transformation
def test_multi_steps_of_one_worker_take_a_step_of_the_mean(name):
  tx = CASES[name].make(axis_name=None)
  params, grads = draw(0), [draw(1), draw(2)]
  several = optax.MultiSteps(tx, every_k_schedule=2)
  update, state = jax.jit(several.update), jax.jit(several.init)(params)
  updates, state = update(grads[0], state, params)
  assert not any(x.any() for x in jax.tree.leaves(updates))
  updates, _ = update(grads[1], state, params)
  mean = jax.tree.map(lambda x, y: (x + y) / 2, *grads)
  expected, _ = jax.jit(tx.update)(mean, jax.jit(tx.init)(params), params)
  assert_close(updates, expected)


@with_a_rate
def test_a_schedule_is_a_learning_rate(name):
  ends = optax.piecewise_constant_schedule(RATE, {2: 0.0})
  scheduled = CASES[name].make(axis_name=None, learning_rate=ends)
  constant = CASES[name].make(axis_name=None)
  assert_close(run(scheduled, steps=4), run(constant, steps=2))


LINEAR = [x for x in CASES if x not in ('int8', 'a list', 'chunk_top_k')]


@pytest.mark.parametrize('name', LINEAR)
def test_optax_finds_what_has_the_shape_of_parameters(name):
  """Without parameters it cannot know that a method is not linear."""
  tx = CASES[name].make(axis_name=None)
  state = jax.jit(tx.init)(draw(0))
  same = optax.tree.map_params(tx, lambda x: x, state)
  assert_close(same, state)
