"""Does every mistake get an answer that says what to do?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers
import pytest

import greedylore_jax as gl
import workers

P = jax.sharding.PartitionSpec
PARAMS = {'w': jnp.ones((8, 16)), 'b': jnp.ones(16)}
NAN = float('nan')


@dataclasses.dataclass(frozen=True)
class Refreshed(gl.Compressor):
  update_interval: int = 5

  def compress(self, h, state, key):
    yield h


@pytest.mark.parametrize(
  ('make', 'kind', 'message'),
  [
    (
      lambda: gl.SplitColumns(compressor=gl.Frozen()),
      ValueError,
      r'must send what it is given, got Frozen\(\)',
    ),
    (
      lambda: gl.compress_gradients(
        gl.PowerSGD(2), None, error_feedback=False, error_decay=0.9
      ),
      ValueError,
      r'error_feedback=False does not keep, got error_decay=0\.9',
    ),
    (
      lambda: gl.frugal(1e-3, 0.25),
      TypeError,
      r'axis_name must be the name of a mesh axis.*=0\.25',
    ),
    (lambda: gl.ChunkTopK(16), TypeError, 'positional argument'),
    (lambda: gl.GreedyLore(0), ValueError, r'rank must be at least 1.*=0'),
    (lambda: gl.GreedyLore(2.5), TypeError, r'rank must be an int.*2\.5'),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS, every=10**10),
      ValueError,
      'every must be at most 2147483647',
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS, every=1.5),
      TypeError,
      r'every must be an int or a rule such as gl\.QSR, got every=1\.5',
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS, every=jnp.array(3)),
      TypeError,
      'every must be an int or a rule.*list this argument in its static_args',
    ),
    (lambda: gl.GreedyLore(True), TypeError, 'rank must be an int'),
    (lambda: gl.GreedyLore(2, 0), ValueError, 'update_interval must be'),
    (lambda: gl.GreedyLore(2, probes='all'), ValueError, 'independent'),
    (lambda: gl.GreedyLore(2, probes=0), ValueError, 'probes must be at'),
    (lambda: gl.FixedSubspace(2, decomposition='qr'), ValueError, 'svd'),
    (lambda: gl.RandomSubspace(-1), ValueError, 'rank must be at least'),
    (
      lambda: gl.greedylore(2, 'data', start_step=-1),
      ValueError,
      'start_step must be at least 0',
    ),
    (
      lambda: gl.greedylore(2, 'data', min_compression_rate=-1),
      ValueError,
      'min_compression_rate must not be negative',
    ),
    (
      lambda: gl.greedylore(2, 'data', error_dtype=jnp.int8),
      TypeError,
      'error_dtype must be None or one of the dtypes bf',
    ),
    (
      lambda: gl.compress_gradients(gl.GreedyLore, 'data'),
      TypeError,
      r'a gl\.Compressor such as gl\.GreedyLore\(rank=32\)',
    ),
    (
      lambda: gl.compress_gradients('greedylore', None),
      TypeError,
      "gl.Compressor such as.*got 'greedylore'",
    ),
    (
      lambda: gl.compress_gradients([gl.PowerSGD(2)], None),
      TypeError,
      r"pairs such as \('embed\|head'.*got PowerSGD",
    ),
    (
      lambda: gl.compress_gradients([('*', gl.PowerSGD(2))], None),
      ValueError,
      r"'\*' in the list.*regular expression",
    ),
    (
      lambda: gl.compress_gradients(Refreshed(0), None),
      ValueError,
      'update_interval must be at least 1, got update_interval=0',
    ),
    (
      lambda: gl.compress_gradients(Refreshed(), None),
      TypeError,
      'update_interval=5, so it must have a method refresh',
    ),
    (
      lambda: gl.greedylore(2, None, seed='a'),
      TypeError,
      "seed must be an int, got seed='a'",
    ),
    (
      lambda: gl.greedylore(2, None, min_compression_rate='2'),
      TypeError,
      'min_compression_rate must be a number',
    ),
    (
      lambda: gl.greedylore(2, None, error_dtype='flot32'),
      TypeError,
      r'error_dtype must be None or one of the dtypes.*flot32',
    ),
    (lambda: gl.Quantize(bits=8.0), ValueError, 'bits must be 2, 4 or 8'),
    (
      lambda: gl.plan(gl.GreedyLore(2), PARAMS, num_workers=2.5),
      TypeError,
      'num_workers must be an int',
    ),
    (
      lambda: gl.make_train_step(
        jnp.sum,
        optax.identity(),
        workers.mesh_of(1),
        axis_name=workers.AXIS,
        accumulate_steps=2.0,
      ),
      TypeError,
      'accumulate_steps must be an int',
    ),
    (
      lambda: gl.expand(gl.greedylore(2, None).init(PARAMS), 0),
      ValueError,
      'num_workers must be at least 1',
    ),
    (
      lambda: gl.plan(gl.GreedyLore(2), PARAMS, num_workers=0),
      ValueError,
      'num_workers must be at least 1',
    ),
    (lambda: gl.collectives(jax.jit(jnp.sin)), TypeError, 'compile'),
    (
      lambda: gl.greedylore(2, ('data', 'data')),
      ValueError,
      r"name every axis once, got axis_name=\('data', 'data'\)",
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS, delay=2),
      ValueError,
      'delay must be below the number of steps in a round, 1, got 2',
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS).bytes_after(-1),
      ValueError,
      'steps must be at least 0',
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS).phase_at(1.5),
      TypeError,
      'step must be an int',
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), PARAMS).phase_after_round(0),
      ValueError,
      'rounds must be at least 1',
    ),
    (
      lambda: gl.frugal(1e-3, None, sign_scale=-1.0),
      ValueError,
      'sign_scale must be at least 0',
    ),
    (
      lambda: gl.tsr_adam(1e-3, 2, None, scale=NAN),
      ValueError,
      'scale must be a number',
    ),
    (
      lambda: gl.tsr_adam(1e-3, 2, None, embedding_update_interval=0),
      ValueError,
      'embedding_update_interval must be at least 1',
    ),
    (
      lambda: gl.plan(gl.PowerSGD(2), {'a': {'b': 'x'}}),
      TypeError,
      "params must be the parameters.*got str at 'a/b'.*registered",
    ),
    (
      lambda: gl.place_state(None, workers.mesh_of(1), axis_name=workers.AXIS),
      TypeError,
      'needs a state from collapse, got None',
    ),
    (
      lambda: gl.state_template(
        optax.identity(),
        PARAMS,
        workers.mesh_of(1),
        axis_name=workers.AXIS,
        num_workers=0,
      ),
      ValueError,
      'num_workers must be at least 1',
    ),
  ],
)
def test_wrong_settings(make, kind, message):
  with pytest.raises(kind, match=message):
    make()


OPTIMIZERS = {
  'frugal': lambda rate=1e-3, **words: gl.frugal(rate, None, **words),
  'lordo': lambda rate=1e-3, **words: gl.lordo(rate, 2, None, every=2, **words),
  'sketched_amsgrad': lambda rate=1e-3, **words: gl.sketched_amsgrad(
    rate, 0.1, None, **words
  ),
  'tsr_adam': lambda rate=1e-3, **words: gl.tsr_adam(rate, 2, None, **words),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_numbers_of_optimizers_out_of_range(name):
  """Steps uphill, of NaN or of nothing are not what anybody wants."""
  make = OPTIMIZERS[name]
  for rate in (None, 'x', True):
    with pytest.raises(TypeError, match='learning_rate must be a number, got'):
      make(rate)
  for rate in (-1.0, NAN, float('inf')):
    with pytest.raises(ValueError, match='learning_rate must be'):
      make(rate)
  wrong = {'b1': 1.0, 'b2': -0.1, 'eps': -1.0, 'weight_decay': -0.1}
  for key, value in wrong.items():
    for given in (value, NAN):
      with pytest.raises(ValueError, match=f'{key} must be'):
        make(**{key: given})
  make(lambda count: 0.1, b1=0.0, eps=np.float32(1e-6), weight_decay=0)
  make(jnp.float32(0.1))


@pytest.mark.parametrize(
  ('numbers', 'kind', 'message'),
  [
    ({'w': MuonDimensionNumbers(0, 1)}, ValueError, 'cover every leaf'),
    (
      {'w': MuonDimensionNumbers(0, 2), 'b': None},
      ValueError,
      r'w: dimension numbers name axis 2.*\(8, 16\)',
    ),
    (
      {'w': MuonDimensionNumbers(0, (0, 1)), 'b': None},
      ValueError,
      'none twice',
    ),
    ({'w': 'matrix', 'b': None}, TypeError, "or None, got 'matrix'"),
  ],
)
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


@pytest.mark.parametrize('accumulate_steps', [1, 2])
def test_batch_leaves_of_unequal_length(accumulate_steps):
  mesh = workers.mesh_of(2)
  tx = optax.chain(gl.greedylore(2, workers.AXIS), optax.sgd(0.1))
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
    lambda p, batch: jnp.mean((batch['x'] @ p['w'] - batch['y']) ** 2),
    tx,
    mesh,
    axis_name=workers.AXIS,
    accumulate_steps=accumulate_steps,
  )
  batch = {'x': jnp.ones((16, 8)), 'y': jnp.ones((8, 16))}
  with pytest.raises(ValueError) as caught:  # noqa: PT011
    step(PARAMS, state, batch)
  assert str(caught.value).startswith(
    'All leaves of the batch should have the same leading axis, got for each'
    " worker 8 in 'x', 4 in 'y', and loss_fn failed on them: "
  )
  assert '\n' not in str(caught.value)


def test_a_batch_that_does_not_divide():
  mesh = workers.mesh_of(4)
  tx = optax.chain(gl.greedylore(2, workers.AXIS), optax.sgd(0.1))
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
    lambda p, x: p['w'].sum() * x['rows'].mean(),
    tx,
    mesh,
    axis_name=workers.AXIS,
    accumulate_steps=2,
  )
  for rows in (12, 0):
    with pytest.raises(
      ValueError, match=r"'rows'.*4 workers x 2 micro-batches, and not 0"
    ):
      step(PARAMS, state, {'rows': jnp.ones(rows)})


def test_a_state_of_another_number_of_workers():
  mesh = workers.mesh_of(4)
  tx = optax.chain(gl.greedylore(2, workers.AXIS), optax.sgd(0.1))
  loss_fn = lambda p, x: p['w'].sum() * x.mean()
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  with pytest.raises(ValueError, match='4 in all, got 1: create it with'):
    step(PARAMS, tx.init(PARAMS), jnp.ones(4))


@pytest.mark.parametrize(
  ('tx', 'kind', 'message'),
  [
    (optax.adam(0.1), ValueError, r"update of 'b' differs between workers"),
    (
      optax.masked(gl.greedylore(2, workers.AXIS), {'b': False, 'w': True}),
      ValueError,
      r"update of 'b'.*average_gradients\('data'\)",
    ),
    (
      gl.greedylore(2, None),
      ValueError,
      r"differs over the mesh axes \['data'\].*axis_name=None does not",
    ),
    (gl.greedylore(2, 'dp'), NameError, "'dp' is not bound here, only 'da"),
  ],
)
def test_a_chain_that_does_not_average_over_the_workers(tx, kind, message):
  mesh = workers.mesh_of(2)
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
    lambda p, x: (p['w'].sum() + p['b'].sum()) * x.mean(),
    tx,
    mesh,
    axis_name=workers.AXIS,
  )
  with pytest.raises(kind, match=message):
    step(PARAMS, state, jnp.ones(2))


@pytest.mark.parametrize(
  ('wrap', 'message'),
  [
    (lambda tx: optax.MultiSteps(tx, 2), 'accumulate_steps='),
    (lambda tx: optax.apply_if_finite(tx, 3), 'around what follows'),
  ],
)
def test_a_compressor_inside_of_what_calls_it_conditionally(wrap, message):
  inner = optax.chain(gl.greedylore(2, workers.AXIS), optax.sgd(0.1))
  tx = wrap(inner)
  mesh = workers.mesh_of(2)
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(jnp.sum, tx, mesh, axis_name=workers.AXIS)
  with pytest.raises(ValueError, match=message):
    step(PARAMS, state, jnp.ones(2))


def test_multi_steps_in_a_loop_of_ones_own():
  tx = optax.MultiSteps(gl.greedylore(2, workers.AXIS), 2)
  state = gl.init_state(tx, PARAMS, workers.mesh_of(2), axis_name=workers.AXIS)
  specs = gl.state_partition_specs(state, workers.AXIS)

  def step(params, state):
    grads = gl.value_and_local_grad(lambda p: p['w'].sum(), workers.AXIS)
    return tx.update(grads(params)[1], state, params)[0]

  with pytest.raises((ValueError, TypeError), match='MultiSteps'):
    sharded(step, P(), specs)(PARAMS, state)


def test_a_loss_that_is_averaged_already():
  mean = lambda p, x: jax.lax.pmean(jnp.mean(x @ p['w']), workers.AXIS)
  counted = lambda p, x: (
    jax.lax.psum(jnp.sum(x @ p['w']), workers.AXIS)
    / jax.lax.psum(x.shape[0], workers.AXIS)
  )
  aux = lambda p, x: (mean(p, x), x)
  for loss_fn in (mean, counted, aux):
    grad_fn = gl.value_and_local_grad(
      loss_fn, workers.AXIS, has_aux=loss_fn is aux
    )
    with pytest.raises(ValueError, match='already averaged or summed over'):
      sharded(grad_fn, P(), P(workers.AXIS))(PARAMS, jnp.ones((4, 8)))


@pytest.mark.parametrize(
  ('loss_fn', 'has_aux', 'message'),
  [
    (lambda p, x: (x.sum(), x), False, r'a scalar, got a tuple: pass has_aux='),
    (lambda p, x: x @ p['w'], False, r'got an array of shape \(4, 16\).*mean'),
    (lambda p, x: {'loss': x.sum()}, False, 'a scalar, got a dict'),
    (lambda p, x: x.sum(), True, r'\(loss, aux\), got an array of shape \(\)'),
    (lambda p, x: (x, x), True, r'got an array of shape \(4, 8\).*mean'),
  ],
)
def test_a_loss_that_is_no_scalar(loss_fn, has_aux, message):
  grad_fn = gl.value_and_local_grad(loss_fn, None, has_aux)
  with pytest.raises(TypeError, match=message):
    grad_fn(PARAMS, jnp.ones((4, 8)))


def test_a_parameter_that_is_no_floating_point_number():
  grad_fn = gl.value_and_local_grad(lambda p: p['w'].sum(), None)
  with pytest.raises(TypeError, match="int32 at 'steps': pass what is not"):
    grad_fn(PARAMS | {'steps': jnp.zeros((), jnp.int32)})


def test_a_loss_may_use_a_mean_over_the_workers():
  """As a batch norm that is shared by the workers does."""

  def loss_fn(params, x):
    y = x @ params['w']
    center = jax.lax.pmean(y.mean(0), workers.AXIS)
    return jnp.mean((y - center[None]) ** 2)

  grad_fn = gl.value_and_local_grad(loss_fn, workers.AXIS)
  step = lambda p, x: jax.lax.pmean(grad_fn(p, x)[1]['w'], workers.AXIS)
  x = jax.random.normal(jax.random.key(0), (4, 8))
  got = sharded(step, P(), P(workers.AXIS))(PARAMS, x)
  whole = lambda p: jnp.mean((x @ p['w'] - (x @ p['w']).mean(0)[None]) ** 2)
  assert workers.relative(got, jax.grad(whole)(PARAMS)['w']) < 1e-5


def test_a_gradient_that_would_be_summed_over_another_axis():
  devices = jax.make_mesh(
    (2, 2),
    ('dcn', 'ici'),
    devices=jax.devices()[:4],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )
  grad_fn = gl.value_and_local_grad(lambda p, x: jnp.mean(x @ p['w']), 'dcn')
  step = jax.shard_map(
    grad_fn, mesh=devices, in_specs=(P(), P(('dcn', 'ici'))), out_specs=P()
  )
  with pytest.raises(ValueError, match=r"\(loss_fn, \('dcn', 'ici'\)\)"):
    jax.jit(step)(PARAMS, jnp.ones((4, 8)))


def test_a_single_worker_of_devices_that_all_do_the_same():
  mesh = workers.mesh_of(4)
  tx = optax.chain(gl.greedylore(2, None), optax.sgd(0.1))
  state = gl.init_state(tx, PARAMS, mesh, axis_name=None)
  step = gl.make_train_step(
    lambda p, x: jnp.mean(x @ p['w']), tx, mesh, axis_name=None
  )
  with pytest.raises(ValueError, match='4 devices and nothing is sharded'):
    step(PARAMS, state, jnp.ones((4, 8)))
  rows = jax.sharding.NamedSharding(mesh, P(workers.AXIS))
  params = jax.tree.map(jnp.copy, PARAMS)
  step(params, state, jax.device_put(jnp.ones((4, 8)), rows))


def test_moments_of_gradients_that_are_not_averaged_yet():
  tx = optax.chain(optax.adam(0.1), gl.greedylore(2, workers.AXIS))
  mesh = workers.mesh_of(2)
  state = gl.init_state(tx, PARAMS, mesh, axis_name=workers.AXIS)
  step = gl.make_train_step(
    lambda p, x: jnp.mean(x @ p['w']), tx, mesh, axis_name=workers.AXIS
  )
  with pytest.raises(ValueError, match=r"'0/0/mu/b' would.*first in the chain"):
    step(PARAMS, state, jnp.ones((2, 8)))


def test_a_state_that_is_replicated_by_mistake():
  tx = gl.greedylore(2, workers.AXIS)

  def step(params, state):
    grads = gl.value_and_local_grad(lambda p: p['w'].sum(), workers.AXIS)
    return tx.update(grads(params)[1], state)[0]

  with pytest.raises(ValueError, match=r"be sharded over \['data'\], got one"):
    sharded(step, P(), P())(PARAMS, tx.init(PARAMS))


def _in_rounds(inner, **options):
  outer = optax.chain(
    gl.compress_gradients(gl.PowerSGD(2), 'data'),
    options.pop('outer_optimizer', optax.sgd(1.0)),
  )
  return gl.local_updates(inner, outer=outer, **{'every': 4, **options})


@pytest.mark.parametrize(
  ('before', 'after', 'message'),
  [
    ({}, {'delay': 2}, "got no 'in_flight/left'"),
    ({'delay': 2}, {}, "got 'in_flight/left', 'in_flight/moves"),
    ({}, {'inner': optax.sgd(0.1)}, "got 'inner/.*which tx does not keep"),
    ({'inner': optax.sgd(0.1)}, {}, "got no 'inner/"),
    ({}, {'fragments': 2}, "got no 'outer/1"),
    (
      {},
      {'outer_optimizer': optax.sgd(1.0, momentum=0.5)},
      "got no 'outer/0/1/0/trace",
    ),
    ({}, {'every': gl.SelSync(0.1), 'axis_name': 'data'}, "got no 'norm"),
  ],
)
def test_a_state_of_another_optimizer(before, after, message):
  """Optax's optimizers fail later, or take the state of another one."""
  mesh = workers.mesh_of(1)
  make = lambda options: _in_rounds(**{'inner': optax.adam(0.1), **options})
  params = {'w': jnp.ones((8, 16)), 'v': jnp.ones((8, 16))}
  state = gl.init_state(make(before), params, mesh, axis_name='data')
  loss_fn = lambda params, x: jnp.mean((x @ params['w'] @ params['v'].T) ** 2)
  step = gl.make_train_step(loss_fn, make(after), mesh, axis_name='data')
  with pytest.raises(ValueError, match=f'(?s){message}.*place_state'):
    step(params, state, jnp.ones((4, 8)))


def test_a_key_in_the_batch():
  mesh = workers.mesh_of(2)
  tx = gl.greedylore(2, workers.AXIS)
  step = gl.make_train_step(jnp.sum, tx, mesh, axis_name=workers.AXIS)
  with pytest.raises(ValueError, match=r"PRNG key in 'key': pass it as step"):
    step(PARAMS, tx.init(PARAMS), {'key': jax.random.key(0)})


def test_a_transformation_in_the_place_of_a_compressor():
  for use in (
    lambda x: gl.plan(x, PARAMS),
    lambda x: gl.compress_gradients(x, None),
  ):
    with pytest.raises(TypeError, match='got an optax transformation'):
      use(gl.greedylore(2, None))


def test_a_prediction_for_one_worker():
  with pytest.raises(ValueError, match=r'at least 2 workers.*num_workers=1'):
    gl.predict(gl.plan(gl.PowerSGD(2), PARAMS), bandwidth=1e9)


def test_a_rank_that_compresses_nothing():
  message = r"Nothing would.*largest, 'w' of shape \(8, 16\).*Lower the rank"
  with pytest.raises(ValueError, match=message):
    gl.greedylore(64, None).init(PARAMS)
  # Vectors alone are no mistake, nor are matrices that others leave behind.
  gl.greedylore(64, None).init({'b': jnp.ones(16)})
  rules = [('w', gl.PowerSGD(64)), ('', gl.PowerSGD(2))]
  gl.compress_gradients(rules, None).init(PARAMS | {'v': jnp.ones((8, 16))})


def test_a_mesh_without_the_axis():
  with pytest.raises(ValueError, match="no axis 'replica', only"):
    gl.init_state(
      gl.greedylore(2, 'replica'),
      PARAMS,
      workers.mesh_of(2),
      axis_name='replica',
    )


def test_what_is_no_mesh():
  with pytest.raises(TypeError, match='mesh must be a'):
    gl.init_state(gl.greedylore(2, 'data'), PARAMS, None, axis_name='data')


def test_expanding_what_was_not_collapsed():
  state = gl.expand(gl.greedylore(2, None).init(PARAMS), 4)
  with pytest.raises(ValueError, match='of 4 workers: collapse the state'):
    gl.expand(state, 2)


def test_a_custom_compressor_that_can_change():
  @dataclasses.dataclass
  class Changing(gl.Compressor):
    compress = gl.Dense.compress

  with pytest.raises(TypeError, match='make it a frozen dataclass'):
    gl.compress_gradients(Changing(), None)


@pytest.mark.parametrize(
  ('compress', 'kind', 'message'),
  [
    (
      lambda self, h, state, key: (h, h, state),
      TypeError,
      r"a generator in its 'compress' step, got tuple: yield each message",
    ),
    (
      lambda self, h, state, key: (yield from _two(h)),
      TypeError,
      r'must return \(output, sent, state\), got 2 of them',
    ),
    (
      lambda self, h, state, key: (yield from _narrow(h, state)),
      ValueError,
      r'output with the shape of h, \(1, 8, 16\), got \(1, 8, 1\)',
    ),
    (
      lambda self, h, state, key: (yield from _with_state(h)),
      ValueError,
      r'a state like the one that it was given, .*make it in init',
    ),
  ],
)
def test_a_custom_compressor_that_returns_something_else(
  compress, kind, message
):
  method = dataclasses.make_dataclass(
    'Own',
    [],
    bases=(gl.Compressor,),
    frozen=True,
    namespace={'compress': compress},
  )
  params = {'w': jnp.ones((8, 16))}
  with pytest.raises(kind, match=message):
    gl.plan(method(), params, min_compression_rate=0)


def _two(h):
  mean, sent = yield h
  return mean, sent


def _narrow(h, state):
  mean, sent = yield h
  return mean[:, :, :1], sent, state


def _with_state(h):
  mean, sent = yield h
  return mean, sent, {'other': mean}


def test_a_custom_compressor():
  """A method is one class with two functions: here, halves of the columns."""

  @dataclasses.dataclass(frozen=True)
  class Halves(gl.Compressor):
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


@pytest.mark.parametrize(
  'use',
  [
    lambda tx: gl.plan(gl.GreedyLore(2), None),
    lambda tx: gl.init_state(
      tx, None, workers.mesh_of(1), axis_name=workers.AXIS
    ),
  ],
)
def test_no_parameters(use):
  """JAX takes None for a tree without leaves, and would say nothing."""
  with pytest.raises(TypeError, match='params must be the parameters'):
    use(gl.greedylore(2, workers.AXIS))


def test_a_dense_leaf_that_differs_over_another_axis_beside_a_compressed_one():
  """What is done with it would differ, and its state be that of all."""
  axes = workers.AXIS, 'model'
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), axes)
  tx = gl.compress_gradients(gl.GreedyLore(2), workers.AXIS)
  params = {'w': jnp.ones((16, 24)), 'b': jnp.ones(16)}
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  specs = gl.state_partition_specs(state, workers.AXIS)

  def step(state, x):
    own = jax.lax.pcast(params['w'], workers.AXIS, to='varying')
    grads = {'w': own, 'b': jnp.broadcast_to(x.mean(), 16)}
    return tx.update(grads, state)[1]

  mapped = jax.shard_map(
    step, mesh=mesh, in_specs=(specs, P(axes)), out_specs=specs
  )
  message = r"gradient of 'b' differs over the mesh axes \['model'\]"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(mapped, state, jnp.ones(4))
