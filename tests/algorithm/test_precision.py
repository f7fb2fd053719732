"""Few bits on the wire: sums that fit, and nothing that is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'w': (6, 40), 'tall': (30, 7)}


@pytest.mark.parametrize('method', [gl.PowerSGD(3), gl.GreedyLore(3, 4)])
def test_what_integers_round_away_stays_in_the_errors(method):
  """To float32 rounding, for any number of workers: integers add exactly."""
  n = 8
  tx = gl.compress_gradients(method, workers.AXIS, factor_dtype='int8')
  update = workers.simulated(tx, n)
  state = workers.fresh(tx, SHAPES, n)
  for step in range(6):
    grads = workers.random_grads(SHAPES, n, seed=step)
    before = state.error
    updates, state = update(grads, state)
    for name in SHAPES:
      came = grads[name].mean(0) + before[name].mean(0)
      went = updates[name] + state.error[name].mean(0)
      assert workers.relative(went, came) < workers.FLOAT32_ROUNDING


@pytest.mark.parametrize(
  'method',
  [
    gl.FixedSubspace(2),
    gl.RandomK(0.2),
    gl.TopK(0.2),
    gl.TopK(0.2, 'own'),
    gl.TSR(2),
  ],
  ids=repr,
)
def test_every_method_has_low_precision(method):
  """Once through a compressed step, conserving what it rounds."""
  shapes = {'w': (6, 40)}
  tx = gl.compress_gradients(
    method, workers.AXIS, factor_dtype='int8', min_compression_rate=0
  )
  update, state = workers.simulated(tx, 2), workers.fresh(tx, shapes, 2)
  for step in range(2):
    grads = workers.random_grads(shapes, 2, seed=step)
    before = state.error['w']
    updates, state = update(grads, state)
    came = grads['w'].mean(0) + before.mean(0)
    went = updates['w'] + state.error['w'].mean(0)
    assert workers.relative(went, came) < workers.FLOAT32_ROUNDING


def test_integers_whose_sums_are_not_exact_are_refused():
  """In int32 they would pass the range by their rounding to float32."""
  with pytest.raises(TypeError, match=r'int8, bfloat16, .*got.*int32'):
    gl.greedylore(2, 'data', factor_dtype='int32')
  with pytest.raises(TypeError, match='float8'):
    gl.greedylore(2, 'data', factor_dtype=jnp.float8_e5m2)


def test_errors_of_half_precision_gradients_lose_nothing():
  """Steps that are small beside what has gathered would round to nothing."""
  shapes = {'w': (6, 12)}
  tx = gl.compress_gradients(gl.RandomSubspace(1), None)
  params = workers.zeros(shapes, jnp.bfloat16)
  update, state = jax.jit(tx.update), tx.init(params)
  assert state.error['w'].dtype == jnp.float32
  came, went = 0, 0
  for step in range(20):
    grads = jax.tree.map(
      lambda x: jnp.asarray(x[0], jnp.bfloat16),
      workers.random_grads(shapes, 1, seed=step),
    )
    updates, state = update(grads, state)
    came = came + np.asarray(grads['w'], np.float64)
    went = went + np.asarray(updates['w'], np.float64)
  assert workers.relative(went + state.error['w'][0], came) < 1e-5


def test_integers_are_as_close_as_their_steps():
  """With 8 workers a step is 1/15 of a row's largest entry."""
  n, updates = 8, {}
  grads = workers.random_grads(SHAPES, n, seed=0)
  for wire in ('int8', None):
    tx = gl.compress_gradients(gl.PowerSGD(3), workers.AXIS, factor_dtype=wire)
    update = workers.simulated(tx, n)
    updates[wire], _ = update(grads, workers.fresh(tx, SHAPES, n))
  for name in SHAPES:
    error = workers.relative(updates['int8'][name], updates[None][name])
    assert 0.01 < error < 0.1


def test_integers_that_all_stand_at_their_limit_add_up():
  """Equal workers use the whole range: 5 x 25 still fits into int8."""
  n = 5
  tx = gl.compress_gradients(
    gl.PowerSGD(6), workers.AXIS, factor_dtype=jnp.int8
  )
  grads = {'w': np.stack([np.full((6, 40), 3.0, np.float32)] * n)}
  updates, _ = workers.simulated(tx, n)(
    grads, workers.fresh(tx, {'w': (6, 40)}, n)
  )
  assert workers.relative(updates['w'], grads['w'][0]) < 1e-3


def test_integers_travel_as_such_and_as_planned():
  method, options = gl.PowerSGD(3), {'factor_dtype': jnp.int8}
  params = workers.zeros(SHAPES)
  tx = gl.compress_gradients(method, workers.AXIS, **options)
  plan = gl.plan(method, params, num_workers=4, **options)
  sent = [
    (c.kind, c.dtype, c.size // (4 if c.kind == 'all-gather' else 1))
    for c in gl.collectives(workers.compiled_update(tx, params))
  ]
  assert sent == plan.rounds['compress']
  scales = ('all-gather', 'uint8', 4 * (3 + 3))
  sketch = ('all-reduce', 'int8', 3 * (6 + 7))
  factor = ('all-reduce', 'int8', 3 * (40 + 30))
  assert sent == [scales, sketch, scales, factor]


def test_more_workers_than_the_range_has_room_for():
  with pytest.raises(ValueError, match='int8 cannot hold the sum of 128'):
    gl.plan(
      gl.PowerSGD(3),
      workers.zeros(SHAPES),
      num_workers=128,
      factor_dtype=jnp.int8,
    )
  with pytest.raises(TypeError, match=r'factor_dtype must.*int8, bf'):
    gl.compress_gradients(gl.PowerSGD(3), None, factor_dtype=jnp.uint8)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_stochastic_levels_are_right_on_average(bits):
  """The mean over many keys comes close; the nearest level does not."""
  h = jax.random.normal(jax.random.key(0), (1, 3, 50))

  def sent(method, key):
    rounds = method.compress(h, (), key)
    message = next(rounds)
    try:
      rounds.send([x[None] for x in message.arrays])
    except StopIteration as stop:
      return stop.value[1]

  keys = jax.random.split(jax.random.key(1), 2000)
  mean = jax.vmap(lambda key: sent(gl.Quantize(bits), key))(keys).mean(0)
  step = float(jnp.abs(h).max()) / (2 ** (bits - 1) - 1)
  # The standard error of a mean of 2,000 is at most step / 2 / sqrt(2,000).
  assert float(jnp.abs(mean - h).max()) < 5 * step / 2 / np.sqrt(2000)
  nearest = sent(gl.Quantize(bits, stochastic=False), keys[0])
  assert float(jnp.abs(nearest - h).max()) <= step / 2 * 1.001
