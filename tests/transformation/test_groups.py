"""Does a step compile fast for many leaves, and are its results the same?"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
from greedylore_jax._src.engine import groups as groups_lib
from greedylore_jax._src.engine.policy import Policy
import workers

METHODS = {
  'greedylore': gl.GreedyLore(2, 3, probes=2),
  'independent': gl.GreedyLore(2, 3, probes='independent', basis_size=4),
  'powersgd': gl.PowerSGD(2),
  'past_sketches': gl.PastSketches(2),
  'range_finder': gl.RangeFinder(2, warm=0.5),
  'tsr': gl.TSR(2, 3),
  'fixed_subspace': gl.FixedSubspace(2, 3),
  'random_subspace': gl.RandomSubspace(2, 3),
  'top_k': gl.TopK(0.2),
  'random_k': gl.RandomK(0.2),
  'count_sketch': gl.CountSketch(density=0.2),
  'split_columns': gl.SplitColumns(0.3, 3, gl.PowerSGD(2)),
  'chunk_top_k': gl.ChunkTopK(chunk=8, keep=5, bits=2, transform='dct'),
  'threshold_top_k': gl.ThresholdTopK(0.2, 3),
  'quantize': gl.Quantize(4),
  'sign': gl.Sign(),
}
# Two leaves of each method, so that all are compiled in one program.
SHAPES = {
  **{f'{name}_{i}': (12, 8) for name in METHODS for i in range(2)},
  'stack_0': (2, 8, 12),
  'stack_1': (2, 8, 12),
  'gain_0': (5,),
  'gain_1': (5,),
}
FEW = {
  'tall_0': (12, 8),
  'tall_1': (12, 8),
  'stack_0': (2, 8, 12),
  'stack_1': (2, 8, 12),
  **{f'gain_{i}': (5,) for i in range(13)},
}
N = 2


def one_by_one(method):
  """The same method, whose leaves are exchanged one by one."""
  cls = type(method)
  alone = type(cls.__name__, (cls,), {'takes_several': False})
  return alone(
    **{
      field.name: getattr(method, field.name)
      for field in dataclasses.fields(method)
      if field.init
    }
  )


def groups(method, shapes):
  policy = Policy(method, min_compression_rate=0)
  return groups_lib.group(policy.leaves(workers.zeros(shapes)))


def check_same(rules, shapes, steps, **options):
  """Steps of all phases, from the same state."""
  assert all(group.is_stack for group in groups(rules, shapes))
  alone = [(pattern, one_by_one(method)) for pattern, method in rules]
  grouped, single = (
    gl.compress_gradients(x, workers.AXIS, min_compression_rate=0, **options)
    for x in (rules, alone)
  )
  updates = [workers.simulated(tx, N) for tx in (grouped, single)]
  state = workers.fresh(grouped, shapes, N)
  for step in range(steps):
    grads = workers.random_grads(shapes, N, seed=step)
    ours, theirs = (update(grads, state) for update in updates)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5, rtol=2e-5),
      ours,
      theirs,
    )
    state = ours[1]


@pytest.mark.slow
def test_leaves_of_equal_shape_get_the_results_that_each_gets_alone():
  rules = [(f'^{name}_', method) for name, method in METHODS.items()]
  check_same([*rules, ('', gl.PowerSGD(2))], SHAPES, steps=5)


@pytest.mark.parametrize(
  'options',
  [
    pytest.param({'stagger': True, 'start_step': 1}, marks=pytest.mark.slow),
    {'factor_dtype': 'int8'},
    pytest.param({'error_feedback': False}, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_and_so_with_every_option(options):
  method = gl.GreedyLore(2, 8, probes=2)
  check_same([('', method)], FEW, steps=4, **options)


def operations(method, layers):
  """In the program of an update and Adam, for so many layers of two shapes."""
  shapes = {}
  for i in range(layers):
    shapes |= {f'{i}_in': (8, 12), f'{i}_out': (12, 8), f'{i}_gain': (5,)}
  params = workers.zeros(shapes)
  tx = optax.chain(
    gl.compress_gradients(method, None, start_step=1, min_compression_rate=0),
    optax.adamw(1e-3),
  )
  state = jax.eval_shape(tx.init, params)
  text = jax.jit(tx.update).lower(params, state, params).as_text()
  return len(re.findall(r' = ', text))


@pytest.mark.parametrize('name', METHODS)
def test_a_leaf_more_costs_hardly_more_operations_than_in_a_dense_step(name):
  """They are what compiling takes its time for."""
  few, many = 6, 8
  growth = lambda method: operations(method, many) - operations(method, few)
  assert growth(METHODS[name]) < 1.5 * growth(gl.Dense())


def test_few_leaves_such_as_stacked_layers_are_not_copied_into_stacks():
  shapes = dict.fromkeys(('query', 'key', 'value', 'output'), (4, 8, 12))
  for method in gl.PowerSGD(2), gl.Dense():
    assert not any(group.is_stack for group in groups(method, shapes))


def test_all_public_methods_are_tested_here():
  public = {
    x
    for x in vars(gl).values()
    if isinstance(x, type) and issubclass(x, gl.Compressor)
  }
  plain = {gl.Compressor, gl.Dense, gl.Frozen}
  assert public == plain | {*map(type, METHODS.values())}


def test_a_method_of_your_own_gets_one_leaf_and_one_key_at_a_time():
  """Unless it says that it takes several."""

  @dataclasses.dataclass(frozen=True)
  class Noise(gl.Compressor):
    linear = True

    def compress(self, h, state, key):
      assert h.shape == (1, 8, 12)
      noise = jax.random.normal(key, (1, 8, 1))
      mean, sent = yield h[:, :, :1] + noise
      whole = lambda x: jnp.broadcast_to(x, h.shape)
      return whole(mean), whole(sent), state

  params = workers.zeros(
    {'v': (8, 12), 'w': (8, 12), **{f'gain_{i}': (5,) for i in range(16)}}
  )
  tx = gl.compress_gradients(Noise(), None)
  updates, _ = tx.update(params, tx.init(params))
  assert np.abs(updates['v'] - updates['w']).max() > 0.1
