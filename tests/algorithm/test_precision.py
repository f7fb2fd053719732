"""Few bits on the wire: sums that fit, and nothing that is forgotten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'w': (6, 40), 'tall': (30, 7)}


@pytest.mark.parametrize(
  ('method', 'n', 'dtype'),
  [
    (gl.PowerSGD(3), 1, 'int4'),
    (gl.PowerSGD(3), 2, 'int8'),
    (gl.PowerSGD(3), 3, 'int2'),
    (gl.PowerSGD(3), 5, 'int4'),
    (gl.GreedyLore(3, 4), 3, 'int8'),
  ],
)
def test_what_few_bits_round_away_stays_in_the_errors(method, n, dtype):
  """Both roundings of a mean, also where N divides nothing."""
  tx = gl.compress_gradients(method, workers.AXIS, factor_dtype=dtype)
  update = workers.simulated(tx, n)
  state = workers.fresh(tx, SHAPES, n)
  for step in range(5):
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
    gl.CountSketch(keep=0.2),
    gl.FixedSubspace(2),
    gl.RandomK(0.2),
    gl.SplitColumns(0.3),
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
  with pytest.raises(TypeError, match=r'int8, int4, int2, .*got.*int32'):
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


def rounded(x, bits):
  """An oracle: chunks of 64 along the longer side, and their levels."""
  k, m, n = x.shape
  rows = np.swapaxes(x, 1, 2) if m > n else x
  flat = rows.reshape(k, -1)
  chunks = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 64))).reshape(-1, 64)
  out = np.zeros_like(chunks)
  for i, c in enumerate(chunks):
    s = 2 ** (bits - 1) - 1
    t = np.abs(c).mean() if bits == 2 else np.abs(c).max() / s
    t = np.float64(jnp.bfloat16(t))
    if t == 0:
      continue
    if bits == 2:
      out[i] = t * (np.clip(np.floor(c / t), -2, 1) + 0.5)
    else:
      out[i] = t * np.clip(np.round(c / t), -s, s)
  flat = out.reshape(k, -1)[:, : m * n].reshape(rows.shape)
  return np.swapaxes(flat, 1, 2) if m > n else flat


def exchanged(h, bits):
  """An oracle: (mean, what each worker sent) of matrices h[i], [a, b].

  Part i of the chunks belongs to worker i, who knows its second rounding.
  """
  first = [rounded(x[None], bits)[0] for x in h]
  mean = np.mean(first, 0)
  output = rounded(mean[None], bits)[0]
  n, size = len(h), mean.size
  chunks = -(-size // 64)
  per_worker = -(-chunks // n) * 64
  owner = np.arange(size) // per_worker
  late = (n * (output - mean)).ravel()
  sent = [
    x + np.where(owner == i, late, 0).reshape(x.shape)
    for i, x in enumerate(first)
  ]
  return output, sent


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('n', [1, 3])
def test_means_in_few_bits_follow_the_oracle(n, bits):
  """Several steps: the errors of all workers are in it."""
  shapes = {'w': (8, 40)}
  tx = gl.compress_gradients(
    gl.Quantize(bits), workers.AXIS, min_compression_rate=0
  )
  update, state = workers.simulated(tx, n), workers.fresh(tx, shapes, n)
  errors = [np.zeros((8, 40))] * n
  for step in range(4):
    grads = workers.random_grads(shapes, n, seed=step)
    updates, state = update(grads, state)
    h = [g + e for g, e in zip(np.float64(grads['w']), errors, strict=True)]
    want, sent = exchanged(h, bits)
    assert workers.relative(updates['w'], want) < 1e-5
    errors = [x - y for x, y in zip(h, sent, strict=True)]
    assert workers.relative(state.error['w'], np.stack(errors)) < 1e-4


@pytest.mark.parametrize('dtype', ['int8', 'int4'])
def test_precision_does_not_depend_on_the_number_of_workers(dtype):
  errors = []
  for n in (2, 8, 32):
    grads, updates = workers.random_grads(SHAPES, n, seed=0), {}
    for wire in (dtype, None):
      tx = gl.compress_gradients(
        gl.PowerSGD(3), workers.AXIS, factor_dtype=wire
      )
      update = workers.simulated(tx, n)
      updates[wire], _ = update(grads, workers.fresh(tx, SHAPES, n))
    errors.append(workers.relative(updates[dtype]['w'], updates[None]['w']))
  expected = {'int8': 0.02, 'int4': 0.3}[dtype]
  assert all(expected / 10 < x < expected for x in errors), errors
  assert max(errors) < 2 * min(errors), errors


def test_few_bits_travel_packed_and_as_planned():
  method, options = gl.PowerSGD(3), {'factor_dtype': jnp.int8}
  params = workers.zeros(SHAPES)
  tx = gl.compress_gradients(method, workers.AXIS, **options)
  plan = gl.plan(method, params, num_workers=4, **options)
  sent = [
    (c.kind, c.dtype, c.size // (4 if c.kind == 'all-gather' else 1))
    for c in gl.collectives(workers.compiled_update(tx, params))
  ]
  assert sent == plan.rounds['compress']
  chunk = 64 + 2
  sketch = [('all-to-all', 'uint8', 4 * chunk), ('all-gather', 'uint8', chunk)]
  # 120 and 90 numbers are two chunks each.
  assert sent == [*sketch, *sketch]
  assert plan.bytes_in('compress') == 8 * chunk


def test_a_nan_of_one_worker_reaches_all():
  n, shapes = 3, {'w': (6, 40)}
  tx = gl.compress_gradients(gl.PowerSGD(3), workers.AXIS, factor_dtype='int4')
  update, state = workers.simulated(tx, n), workers.fresh(tx, shapes, n)
  grads = workers.random_grads(shapes, n, seed=0)
  grads['w'][1, 2, 3] = np.nan
  updates, after = update(grads, state)
  assert np.all(np.isnan(updates['w']))
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_only_what_can_be_packed_is_accepted():
  with pytest.raises(TypeError, match=r'factor_dtype must.*int8, int4'):
    gl.compress_gradients(gl.PowerSGD(3), None, factor_dtype=jnp.uint8)
