"""Does every mistake get an answer that says what to do?"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers
import pytest

import greedylore_jax as gl
import workers

P = jax.sharding.PartitionSpec
PARAMS = {'w': jnp.ones((8, 16)), 'b': jnp.ones(16)}


@dataclasses.dataclass(frozen=True)
class Refreshed:
  update_interval: int = 5
  linear: bool = True

  def init(self, k, a, b, dtype):
    return ()

  def compress(self, h, memory, key):
    yield h


@pytest.mark.parametrize(
    ('make', 'kind', 'message'),
    [
        (lambda: gl.GreedyLore(0), ValueError, r'rank must be at least 1.*=0'),
        (lambda: gl.GreedyLore(2.5), TypeError, r'rank must be an int.*2\.5'),
        (lambda: gl.GreedyLore(True), TypeError, 'rank must be an int'),
        (lambda: gl.GreedyLore(2, 0), ValueError, 'update_interval must be'),
        (lambda: gl.GreedyLore(2, probes='all'), ValueError, 'independent'),
        (lambda: gl.GreedyLore(2, probes=0), ValueError, 'probes must be at'),
        (lambda: gl.FixedSubspace(2, decomposition='qr'), ValueError, 'svd'),
        (lambda: gl.RandomSubspace(-1), ValueError, 'rank must be at least'),
        (lambda: gl.greedylore(2, 'data', start_step=-1), ValueError,
         'start_step must be at least 0'),
        (lambda: gl.greedylore(2, 'data', min_compression_rate=-1), ValueError,
         'min_compression_rate must not be negative'),
        (lambda: gl.greedylore(2, 'data', error_dtype=jnp.int8), TypeError,
         'error_dtype must be None or one of the dtypes bf'),
        (lambda: gl.compress_gradients(gl.GreedyLore, 'data'), TypeError,
         r'an instance such as gl\.GreedyLore\(rank=32\)'),
        (lambda: gl.compress_gradients('greedylore', None), TypeError,
         "an instance such as.*got 'greedylore'"),
        (lambda: gl.compress_gradients([gl.PowerSGD(2)], None), TypeError,
         r"pairs such as \('embed\|head'.*got PowerSGD"),
        (lambda: gl.compress_gradients([('*', gl.PowerSGD(2))], None),
         ValueError, r"'\*' in the list.*regular expression"),
        (lambda: gl.compress_gradients(Refreshed(), None), TypeError,
         'update_interval=5, so it must have a method refresh'),
        (lambda: gl.greedylore(2, None, seed='a'), TypeError,
         "seed must be an int, got seed='a'"),
        (lambda: gl.greedylore(2, None, min_compression_rate='2'), TypeError,
         'min_compression_rate must be a number'),
        (lambda: gl.greedylore(2, None, error_dtype='flot32'), TypeError,
         r'error_dtype must be None or one of the dtypes.*flot32'),
        (lambda: gl.Quantize(bits=8.0), ValueError, 'bits must be 2, 4 or 8'),
        (lambda: gl.plan(gl.GreedyLore(2), PARAMS, num_workers=2.5), TypeError,
         'num_workers must be an int'),
        (lambda: gl.make_train_step(
            jnp.sum, optax.identity(), workers.mesh_of(1),
            axis_name=workers.AXIS, accumulate_steps=2.0,
        ), TypeError, 'accumulate_steps must be an int'),
        (lambda: gl.expand(gl.greedylore(2, None).init(PARAMS), 0), ValueError,
         'num_workers must be at least 1'),
        (lambda: gl.plan(gl.GreedyLore(2), PARAMS, num_workers=0), ValueError,
         'num_workers must be at least 1'),
        (lambda: gl.collectives(jax.jit(jnp.sin)), TypeError, 'compile'),
    ],
)  # fmt: skip
def test_wrong_settings(make, kind, message):
  with pytest.raises(kind, match=message):
    make()


@pytest.mark.parametrize(
    ('numbers', 'kind', 'message'),
    [
        ({'w': MuonDimensionNumbers(0, 1)}, ValueError, 'cover every leaf'),
        ({'w': MuonDimensionNumbers(0, 2), 'b': None}, ValueError,
         r'w: dimension numbers name axis 2.*\(8, 16\)'),
        ({'w': MuonDimensionNumbers(0, (0, 1)), 'b': None}, ValueError,
         'none twice'),
        ({'w': 'matrix', 'b': None}, TypeError, "or None, got 'matrix'"),
    ],
)  # fmt: skip
def test_dimension_numbers_that_do_not_fit(numbers, kind, message):
  tx = gl.greedylore(2, None, weight_dimension_numbers=numbers)
  with pytest.raises(kind, match=message):
    tx.init(PARAMS)


def test_dimension_numbers_as_a_prefix_and_as_a_function():
  tree = {'block': PARAMS, 'head': jnp.ones((16, 32))}
  prefix = {'block': {'w': MuonDimensionNumbers(0, 1), 'b': None}, 'head': None}
  for numbers in (prefix, lambda _: prefix):
    tx = gl.greedylore(2, None, weight_dimension_numbers=numbers)
    error = tx.init(tree).error
    assert error['block']['w'].shape == (1, 8, 16)
    assert error['head'] == optax.MaskedNode()


def test_an_axis_that_is_not_bound():
  tx = gl.greedylore(2, 'data')
  with pytest.raises(NameError, match=r"axis_name='data' is not bound.*None"):
    tx.update(PARAMS, tx.init(PARAMS))


def sharded(function, *specs):
  mesh = workers.mesh_of(2)
  return jax.jit(
      jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P())
  )


def test_gradients_that_are_averaged_already():
  tx = gl.greedylore(2, workers.AXIS)
  state = tx.init(PARAMS)

  def step(params, batch):
    loss = lambda p: jnp.mean(p['w'] * batch.mean()) + jnp.sum(p['b'])
    return tx.update(jax.grad(loss)(params), state)[0]

  with pytest.raises(ValueError, match=r'already averaged.*value_and_local_gr'):
    sharded(step, P(), P(workers.AXIS))(PARAMS, jnp.ones(4))


def test_a_state_without_its_specs():
  tx = gl.greedylore(2, workers.AXIS)
  state = gl.expand(tx.init(PARAMS), 2)

  def step(params, state):
    grads = gl.value_and_local_grad(lambda p: p['w'].sum(), workers.AXIS)
    return tx.update(grads(params)[1], state)[0]

  with pytest.raises(ValueError, match=r'must have shape \(1, 8, 16\).*specs'):
    sharded(step, P(), P())(PARAMS, state)


def test_a_batch_that_does_not_divide():
  mesh = workers.mesh_of(4)
  tx = optax.chain(gl.greedylore(2, workers.AXIS), optax.sgd(0.1))
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
      lambda p, x: p['w'].sum() * x['rows'].mean(), tx, mesh,
      axis_name=workers.AXIS, accumulate_steps=2,
  )  # fmt: skip
  with pytest.raises(ValueError, match=r"'rows'.*4 workers x 2 micro-batches"):
    step(PARAMS, state, {'rows': jnp.ones(12)})


def test_a_state_of_another_number_of_workers():
  mesh = workers.mesh_of(4)
  tx = optax.chain(gl.greedylore(2, workers.AXIS), optax.sgd(0.1))
  loss_fn = lambda p, x: p['w'].sum() * x.mean()
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  with pytest.raises(ValueError, match=r'of 1 workers, the mesh has 4.*init_s'):
    step(PARAMS, tx.init(PARAMS), jnp.ones(4))


@pytest.mark.parametrize(
    ('tx', 'kind', 'message'),
    [
        (optax.adam(0.1), ValueError, r"update of 'b' differs between workers"),
        (optax.masked(gl.greedylore(2, workers.AXIS), {'b': False, 'w': True}),
         ValueError, r"update of 'b'.*average_gradients\('data'\)"),
        (gl.greedylore(2, None), ValueError,
         r"differs over the axes \['data'\].*axis_name=None does not average"),
        (gl.greedylore(2, 'dp'), NameError, "'dp' is not bound here, only 'da"),
    ],
)  # fmt: skip
def test_a_chain_that_does_not_average_over_the_workers(tx, kind, message):
  mesh = workers.mesh_of(2)
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
      lambda p, x: (p['w'].sum() + p['b'].sum()) * x.mean(), tx, mesh,
      axis_name=workers.AXIS,
  )  # fmt: skip
  with pytest.raises(kind, match=message):
    step(PARAMS, state, jnp.ones(2))


def test_a_mesh_without_the_axis():
  with pytest.raises(ValueError, match="no axis 'replica', only"):
    gl.init_state(
        gl.greedylore(2, 'replica'), PARAMS, workers.mesh_of(2),
        axis_name='replica',
    )  # fmt: skip


def test_expanding_what_was_not_collapsed():
  state = gl.expand(gl.greedylore(2, None).init(PARAMS), 4)
  with pytest.raises(ValueError, match='of 4 workers: collapse the state'):
    gl.expand(state, 2)


def test_a_compressor_of_ones_own_that_can_change():
  @dataclasses.dataclass
  class Changing:
    update_interval = None
    linear = True
    init = gl.Dense.init
    compress = gl.Dense.compress

  with pytest.raises(TypeError, match='make it a frozen dataclass'):
    gl.compress_gradients(Changing(), None)


def test_a_compressor_of_ones_own():
  """A method is one class with two functions: here, halves of the columns."""

  @dataclasses.dataclass(frozen=True)
  class Halves:
    update_interval = None
    linear = True

    def init(self, k, a, b, dtype):
      return jnp.zeros([], jnp.int32)

    def compress(self, h, turn, key):
      side = jnp.arange(h.shape[-1])[None, None] % 2 == turn % 2
      mean, sent = yield jnp.where(side, h, 0)
      return mean, sent, turn + 1

  tx = gl.compress_gradients(Halves(), None, min_compression_rate=0)
  state = tx.init(PARAMS)
  for _ in range(2):
    updates, state = tx.update(PARAMS, state)
  # What waited a step arrives with the gradient of the second.
  assert set(jnp.unique(updates['w']).tolist()) == {0.0, 2.0}
