"""Which leaves are taken for matrices when nobody says?"""

import re
import warnings

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers
import pytest

import greedylore_jax as gl

CASES = {
  # What it is: (path, shape, matrices as k x a x b or why it is dense).
  'dense layer': ('kernel', (256, 512), '256 x 512'),
  'scanned layers': ('kernel', (12, 256, 512), '12 x 256 x 512'),
  'Conv1D, WIO': ('kernel', (5, 256, 512), '5 x 256 x 512'),
  'Conv1D, OIW': ('weight', (512, 256, 5), 'ambiguous'),
  'projection to heads': ('query/kernel', (512, 8, 64), 'ambiguous'),
  'scanned projection': ('query/kernel', (12, 512, 8, 64), 'ambiguous'),
  'Conv2D, HWIO': ('kernel', (3, 3, 64, 128), '128 x 576'),
  'Conv2D, OIHW': ('weight', (128, 64, 3, 3), '128 x 576'),
  'patches': ('kernel', (16, 16, 3, 768), '768 x 768'),
  'Conv3D, DHWIO': ('kernel', (3, 3, 3, 64, 128), '128 x 1728'),
  'Conv3D, OIDHW': ('weight', (128, 64, 3, 3, 3), '128 x 1728'),
  'scanned experts': ('experts', (12, 8, 256, 512), '96 x 256 x 512'),
  'as many experts': ('experts', (8, 8, 256, 512), '64 x 256 x 512'),
  'bias': ('head/bias', (512,), '1-D'),
  'biases of heads': ('query/bias', (8, 64), 'a bias or gains'),
  'scanned gains': ('blocks/norm_1/scale', (12, 512), 'a bias or gains'),
  'gains by layer': ('blocks/ln2/weight', (12, 512), 'a bias or gains'),
  'not a norm': ('normalizing_flow/kernel', (128, 512), '128 x 512'),
}


def nested(path, leaf):
  for name in reversed(path.split('/')):
    leaf = {name: leaf}
  return leaf


@pytest.mark.parametrize('name', CASES)
def test_default(name):
  path, shape, expected = CASES[name]
  params = nested(path, jax.ShapeDtypeStruct(shape, jnp.float32))
  (leaf,) = gl.plan(gl.PowerSGD(4), params).leaves
  assert leaf.how.removeprefix('matrices ').startswith(expected)
  assert leaf.compressed == (' x ' in expected)


def test_ambiguous_leaves_are_named_once_with_what_would_compress_them():
  tx = gl.compress_gradients(gl.PowerSGD(4), None)
  params = {
    'query': jnp.ones((64, 4, 16)),
    'out': jnp.ones((64, 4, 16)),
    'mlp': jnp.ones((64, 128)),
  }
  with pytest.warns(UserWarning, match='stay dense') as caught:
    tx.init(params)
  (warning,) = caught
  text = str(warning.message)
  # Followed to the letter, it compresses these leaves and is not repeated.
  advice = re.search(r'weight_dimension_numbers=(\[.*\]), with', text)[1]
  numbers = eval(advice, {'MuonDimensionNumbers': MuonDimensionNumbers})
  assert [pattern for pattern, _ in numbers] == ['^out$', '^query$']
  numbers[0] = ('^out$', None)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    state = gl.compress_gradients(
      gl.PowerSGD(4), None, weight_dimension_numbers=numbers
    ).init(params)
  assert state.error['query'].shape == (1, 64, 4, 16)
  assert state.error['mlp'].shape == (1, 64, 128)
  assert not jax.tree.leaves(state.error['out'])


@pytest.mark.parametrize(
  ('numbers', 'kind', 'message'),
  [
    ([('^other$', None)], ValueError, r'other.*matches no leaf.*w'),
    ([('w', 'matrix')], TypeError, r"pairs of a pattern.*got \('w', 'matr"),
  ],
)
def test_patterns_that_do_not_fit(numbers, kind, message):
  params = {'w': jnp.ones((8, 16))}
  tx = gl.greedylore(2, None, weight_dimension_numbers=numbers)
  with pytest.raises(kind, match=message):
    tx.init(params)


def test_the_table_groups_layers_and_no_names_with_a_digit_inside():
  shape = jax.ShapeDtypeStruct((64, 128), jnp.float32)
  params = {
    'conv1d': shape,
    'conv2d': shape,
    'layers_0': shape,
    'layers_1': shape,
    'blocks': [shape, shape],
  }
  table = str(gl.plan(gl.PowerSGD(4), params, num_workers=2))
  for name in ('conv1d ', 'conv2d ', 'layers_*', 'blocks/*'):
    assert name in table
  assert 'conv*d' not in table


def test_a_plan_says_that_nothing_is_compressed():
  params = {'w': jax.ShapeDtypeStruct((8, 16), jnp.float32)}
  assert 'Nothing is compressed' in str(gl.plan(gl.PowerSGD(64), params))
  assert 'Nothing is' not in str(gl.plan(gl.Dense(), params))
  assert 'Nothing is' not in str(gl.plan(gl.PowerSGD(2), params))


def test_state_of_absurd_size_is_refused():
  """200,000 x 200,000 numbers are 160 GB."""

  class BothBases(gl.PowerSGD):
    def init(self, k, a, b, dtype):
      return jnp.zeros((k, b, b), dtype)

  params = {'embed': jax.ShapeDtypeStruct((200_000, 8), jnp.float32)}
  for use in (
    lambda x: gl.plan(x, params),
    lambda x: jax.eval_shape(gl.compress_gradients(x, None).init, params),
  ):
    with pytest.raises(ValueError, match=r"160 GB for 'embed'.*PowerSGD"):
      use(BothBases(2))
    # The advice, followed.
    use([('^embed$', gl.PowerSGD(2)), ('', BothBases(2))])


def test_a_list_that_decides_one_leaf_leaves_the_warning_for_another():
  shape = jax.ShapeDtypeStruct((64, 4, 16), jnp.float32)
  params = {'query': shape, 'key': shape, 'bias': jnp.ones(64)}
  numbers = [('query', MuonDimensionNumbers(0, (1, 2)))]
  tx = gl.compress_gradients(
    gl.GreedyLore(2), None, weight_dimension_numbers=numbers
  )
  with pytest.warns(UserWarning, match='key') as caught:
    jax.eval_shape(tx.init, params)
  assert 'query' not in str(caught[0].message)
  plan = gl.plan(gl.GreedyLore(2), params, weight_dimension_numbers=numbers)
  how = {leaf.path: leaf.how for leaf in plan.leaves}
  assert how['bias'] == '1-D, not a matrix' and 'ambiguous' in how['key']


@pytest.mark.parametrize(
  'method', [gl.Dense(), [('query', gl.Dense()), ('', gl.PowerSGD(2))]]
)
def test_a_leaf_that_was_asked_to_be_dense_is_not_warned_of(method):
  params = {'query': jnp.ones((64, 4, 16)), 'w': jnp.ones((32, 64))}
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    gl.compress_gradients(method, None).init(params)
