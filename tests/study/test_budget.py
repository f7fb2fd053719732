"""Is the rank that is chosen for a budget the largest that stays within it?"""

import dataclasses
import functools
import typing

import pytest

import greedylore_jax as gl
from train import tasks
from train.config.schema import (
  METHODS_OF,
  OPTIMIZERS,
  Compression,
  Config,
  Mesh,
  Method,
  Model,
)
from train.models import llama_rules
from train.run import optimizer
from train.study import budget

MODEL = Model(width=16, layers=1, heads=2, feed_forward=24)


@functools.cache
def load():
  """The task of all configurations here, which differ in their compression."""
  return tasks.load(Config(model=MODEL))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['greedylore', 'powersgd', 'fixed_subspace'])
def test_the_largest_rank_that_fits(method):
  """Every rank that a matrix can have is planned and compared."""
  settings = Config(
    steps=40,
    mesh=Mesh(replica=1),
    model=MODEL,
    compression=Compression(
      method, update_interval=12, start_step=1, embeddings=True
    ),
  )
  params = load().init(0)
  reached = {}
  for rank in range(1, 17):
    compression = dataclasses.replace(settings.compression, rank=rank)
    plan = gl.plan(
      optimizer.compressor(compression),
      params,
      start_step=1,
      weight_dimension_numbers=(
        lambda x: llama_rules.matrix_dimension_numbers(x, True)
      ),
    )
    # A step also averages the loss and, of each error, three diagnostics.
    extra = 4 + 12 * sum(leaf.compressed for leaf in plan.leaves)
    sent = plan.bytes_after(40) + 40 * extra
    reached[rank] = 40 * (plan.dense_bytes + 4) / sent
  chosen = []
  for times in (1.0, 1.5, 2.0, 3.0, reached[5]):
    fitting = [rank for rank, x in reached.items() if x >= times]
    chosen.append(budget.largest(settings, load(), times))
    assert chosen[-1] == max(fitting), f'{times} times fewer, of {reached}'
  assert len({*chosen}) >= 4, 'budgets that different ranks meet'
  assert chosen[-1] == 5, 'a budget that is met exactly'


@pytest.mark.parametrize(
  'method',
  [
    'top_k',
    pytest.param('random_k', marks=pytest.mark.slow),
    pytest.param('count_sketch', marks=pytest.mark.slow),
  ],
)
def test_the_largest_density_that_fits_to_three_digits(method):
  settings = Config(
    steps=40,
    mesh=Mesh(replica=1),
    model=MODEL,
    compression=Compression(method, embeddings=True),
  )
  density = budget.largest(settings, load(), 3.0)
  assert density == float(f'{density:.2e}')
  times = lambda x: budget.times_fewer(
    dataclasses.replace(
      settings, compression=dataclasses.replace(settings.compression, density=x)
    ),
    load(),
  )
  # A step further would send more, or round to as many numbers.
  assert times(density + 1e-3) < 3.0 <= times(density) < 3.3


def test_a_budget_that_cannot_be_met_says_what_can():
  settings = Config(
    steps=40,
    mesh=Mesh(replica=1),
    model=MODEL,
    compression=Compression('powersgd', start_step=20),
  )
  with pytest.raises(LookupError, match=r'rank, 1, sends 1\.\d\d times'):
    budget.largest(settings, load(), 2.0)


def test_every_method_has_a_knob_of_the_configuration_or_none():
  fields = {field.name for field in dataclasses.fields(Compression)}
  methods = [x for of in typing.get_args(Method) for x in typing.get_args(of)]
  assert 'tsr_adam' in methods
  for method in methods:
    assert budget.knob(method) in fields | {None}, (
      f'{method}: say in train/budget.py which key sets its bytes'
    )
  assert budget.knob('dense') is None
  assert budget.knob('powersgd') == 'rank'


@pytest.mark.parametrize('key', METHODS_OF)
def test_the_methods_that_read_a_key_are_those_that_change_with_it(key):
  other = {
    'rank': 3,
    'update_interval': 7,
    'density': 0.2,
    'slack': 2.0,
    'keep': 3,
    'chunk': 32,
    'transform': 'dct',
    'bits': 4,
    'indices': 'own',
    'fresh': 1.0,
    'warm': 0.5,
    'basis_size': 30,
    'average': 'bases',
    'rotate_moments': True,
    'scale': 0.5,
    'sign_scale': 0.5,
    'payload_method': 'sign',
    'quasi_hyperbolic': 0.5,
    'renew_rounds': 2,
    'sketch_rows': 5,
    'sketch_columns': 2.0,
    'probes': 2,
  }
  methods = [x for of in typing.get_args(Method) for x in typing.get_args(of)]
  for method in methods:
    usual = Compression(method)
    changed = dataclasses.replace(usual, **{key: other[key]})
    is_read = key not in changed.unread()
    assert is_read == (method in METHODS_OF[key])
    if method not in OPTIMIZERS:  # Which read keys of their own.
      same = optimizer.compressor(usual) == optimizer.compressor(changed)
      assert same != is_read, f'{method} and {key}: see METHODS_OF'
