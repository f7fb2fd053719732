"""Is it the network of the papers, and what do its batch norms do?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
from train.config.schema import Model
from train.models import resnet

SMALL = Model(name='resnet8', width=4)


@pytest.fixture(scope='module')
def small():
  network = resnet.Network(SMALL, 3, 5)
  return network, network.init(0)


def pixels(rows, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, 255, (rows, 8, 8, 3)), jnp.uint8)


@pytest.mark.parametrize(
  ('classes', 'count'), [(10, 11_173_962), (100, 11_220_132)]
)
def test_resnet18_has_as_many_parameters_as_everywhere(classes, count):
  model = Model(name='resnet18', width=64)
  network = resnet.Network(model, 3, classes)
  shapes = jax.eval_shape(lambda: network.init(0))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count
  # Twenty convolutions (with three shortcuts) and one matrix.
  matrices = gl.plan(
    gl.PowerSGD(8),
    shapes,
    min_compression_rate=0,
    weight_dimension_numbers=lambda x: network.matrices(x, True),
  )
  compressed = [leaf for leaf in matrices.leaves if leaf.error_bytes]
  assert len(compressed) == 21


def test_the_last_stage_sees_an_eighth_of_the_image(small):
  """Its shapes, by convolutions whose padding is known."""
  network, params = small
  kernels = jax.tree.map(lambda x: x.shape, params)['stages']
  assert kernels['0']['0']['first']['kernel'] == (3, 3, 4, 4)
  assert 'shortcut' not in kernels['0']['0']
  assert kernels['2']['0']['shortcut']['kernel'] == (1, 1, 8, 16)
  assert network.logits(params, pixels(2)).shape == (2, 5)


def test_statistics_are_those_of_the_batch(small):
  network, params = small
  image = pixels(6)
  statistics = network.statistics(params, image)
  stem = jax.lax.conv_general_dilated(
    image / 127.5 - 1,
    params['stem']['kernel'],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  np.testing.assert_allclose(
    statistics['stem']['norm']['mean'], stem.mean((0, 1, 2)), atol=1e-5
  )
  np.testing.assert_allclose(
    statistics['stem']['norm']['var'], (stem**2).mean((0, 1, 2)), rtol=1e-4
  )
  # With them, prediction is what training sees.
  np.testing.assert_allclose(
    network.predict(params, statistics, image),
    network.logits(params, image),
    atol=1e-5,
  )


def test_statistics_of_parts_add_up(small):
  """In the stem, behind which the parts differ by their norms."""
  network, params = small
  image = pixels(6)
  parts = [network.statistics(params, image[i : i + 2]) for i in (0, 2, 4)]
  mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *parts)
  whole = network.statistics(params, image)
  for name in ('mean', 'var'):
    np.testing.assert_allclose(
      mean['stem']['norm'][name],
      whole['stem']['norm'][name],
      rtol=1e-4,
      atol=1e-6,
    )


@pytest.mark.slow
def test_a_prediction_does_not_depend_on_its_neighbors(small):
  network, params = small
  statistics = network.statistics(params, pixels(16, seed=1))
  image = pixels(4)
  together = network.predict(params, statistics, image)
  alone = network.predict(params, statistics, image[:1])
  np.testing.assert_allclose(together[:1], alone, atol=1e-5)
  training = network.logits(params, image)[0]
  by_itself = network.logits(params, image[:1])[0]
  assert np.abs(training - by_itself).max() > 1e-3, 'in training it does'


def test_every_parameter_is_covered_and_ends_are_dense(small):
  network, params = small
  numbers = network.matrices(params)
  assert numbers['stem']['kernel'] is None
  assert numbers['head']['kernel'] is None
  assert numbers['stages']['1']['0']['second']['kernel'].output_axis == 3
  with_ends = network.matrices(params, embeddings=True)
  assert with_ends['stem']['kernel'] and with_ends['head']['kernel']
  with pytest.raises(ValueError, match=r"no rule covers .*'other'"):
    network.matrices({'other': params['stem']['kernel']})
