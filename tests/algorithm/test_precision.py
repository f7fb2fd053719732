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
    workers.check_conserved(grads, before, updates, state.error)


@pytest.mark.slow
@pytest.mark.parametrize(
  'method',
  [
    gl.CountSketch(density=0.2),
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
    before = state.error
    updates, state = update(grads, state)
    workers.check_conserved(grads, before, updates, state.error)


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


def rotated(x):
  """An oracle: chunks of 64 along the longer side, rotated. x: [a, b]."""
  flat = (x.T if x.shape[0] > x.shape[1] else x).ravel()
  chunks = np.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)
  return chunks @ rotation()


def rotated_back(chunks, shape):
  """Inverts `rotated`."""
  flat = (chunks @ rotation().T).ravel()[: np.prod(shape)]
  return (
    flat.reshape(shape[::-1]).T if shape[0] > shape[1] else flat.reshape(shape)
  )


def rotation():
  """(-1)^(bits that i and j share), and the sign of a row by i^2 mod 61."""
  i, j = np.mgrid[:64, :64]
  shared = np.bitwise_count(i & j)
  return (-1.0) ** (shared + i**2 % 61) / 8


def rounded(chunks, bits):
  """An oracle: the levels of chunks."""
  out = np.zeros_like(chunks)
  for row, c in zip(out, chunks, strict=True):
    if bits == 2:
      levels = np.clip(np.floor(c / (1.25 * np.abs(c).mean())), -2, 1) + 0.5
      t = levels @ c / (levels @ levels)
      row[:] = levels * np.float64(jnp.bfloat16(t))
    else:
      s = 2 ** (bits - 1) - 1
      t = np.float64(jnp.bfloat16(np.abs(c).max() / s))
      row[:] = t * np.clip(np.round(c / t), -s, s)
  return out


def exchanged(h, bits):
  """An oracle: (mean, what each worker sent) of matrices h[i], [a, b].

  Part i of the chunks belongs to worker i, who knows its second rounding.
  """
  first = [rounded(rotated(x), bits) for x in h]
  mean = np.mean(first, 0)
  output = rounded(mean, bits)
  per_worker = -(-len(mean) // len(h))
  owner = np.arange(len(mean)) // per_worker
  late = len(h) * (output - mean)
  sent = [
    x + np.where(owner[:, None] == i, late, 0) for i, x in enumerate(first)
  ]
  back = [rotated_back(x, h[0].shape) for x in (output, *sent)]
  return back[0], back[1:]


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


def test_precision_does_not_depend_on_the_distribution():
  """Relative squared errors of one rounding, as the documentation has them."""
  rng = np.random.default_rng(0)
  numbers = {
    'normal': (rng.normal(size=(4000, 64)), 0.012, 0.115),
    'Laplace': (rng.laplace(size=(4000, 64)), 0.011, 0.112),
    "Student's t": (rng.standard_t(4, size=(4000, 64)), 0.011, 0.108),
  }
  for i, bits in enumerate((4, 2)):
    tx = gl.compress_gradients(gl.Quantize(bits), None)
    update = jax.jit(tx.update)
    for x, *expected in numbers.values():
      _, state = update({'w': jnp.float32(x)}, tx.init({'w': x}))
      found = workers.relative(x - state.error['w'][0], x) ** 2
      assert abs(found - expected[i]) < 2e-3, bits


@pytest.mark.parametrize(
  'dtype', [pytest.param('int8', marks=pytest.mark.slow), 'int4']
)
def test_precision_does_not_depend_on_the_number_of_workers(dtype):
  errors = []
  for n in (2, 32):
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
  program = workers.compiled_update(tx, params)
  sent = workers.sent_by_phase(gl.collectives(program))
  assert sent == plan.rounds
  chunk = 64 + 2
  sketch = [('all-to-all', 'uint8', 4 * chunk), ('all-gather', 'uint8', chunk)]
  # 120 and 90 numbers are two chunks each.
  assert sent['compress'] == [*sketch, *sketch]
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


DENSE_SHAPES = {
  'w': (6, 40),
  'embedding': (30, 7),
  'gain': (150,),
  'bias': (4,),
}


@pytest.mark.parametrize('dtype', ['int8', 'int4', 'int2'])
def test_dense_messages_in_few_bits_are_conserved(dtype):
  """Dense steps, a refresh, compressed steps, and leaves that stay dense."""
  n = 3
  tx = gl.compress_gradients(
    [('embedding', gl.Dense()), ('', gl.GreedyLore(2, 3))],
    workers.AXIS,
    start_step=1,
    dense_dtype=dtype,
  )
  update, state = workers.simulated(tx, n), workers.fresh(tx, DENSE_SHAPES, n)
  for step in range(5):
    grads = workers.random_grads(DENSE_SHAPES, n, seed=step)
    before = state.error
    updates, state = update(grads, state)
    workers.check_conserved(grads, before, updates, state.error)
    for name in {*DENSE_SHAPES} - {'bias'}:  # It is too small for a chunk.
      assert np.any(state.error[name]), name


def test_dense_messages_in_few_bits_are_planned():
  compressor = [('embedding', gl.Dense()), ('', gl.PowerSGD(2))]
  options = {'start_step': 1, 'dense_dtype': 'int4', 'factor_dtype': 'int2'}
  params = workers.zeros(DENSE_SHAPES)
  plan = gl.plan(compressor, params, num_workers=4, **options)
  how = {leaf.path: leaf.how for leaf in plan.leaves}
  assert how['embedding'] == 'dense in 4 bits: requested'
  assert how['bias'].startswith('1-D')
  tx = gl.compress_gradients(compressor, workers.AXIS, **options)
  program = workers.compiled_update(tx, params)
  sent = workers.sent_by_phase(gl.collectives(program))
  in_any_order = lambda rounds: {x: sorted(rounds[x]) for x in rounds}
  assert in_any_order(sent) == in_any_order(plan.rounds)
  # 4 chunks each of w and of the embedding, 3 of the gain, one more to share.
  assert plan.bytes_in('warmup') == 12 * (64 // 2 + 2) + 4 * 4


def test_a_floating_dense_dtype_is_that_of_the_messages():
  tx = gl.compress_gradients(
    gl.PowerSGD(2), None, start_step=9, dense_dtype='bfloat16'
  )
  params = workers.zeros(SHAPES)
  grads = jax.tree.map(lambda x: x + 1 + 2**-12, params)
  updates, state = tx.update(grads, tx.init(params))
  assert np.all(updates['w'] == 1)
  np.testing.assert_allclose(state.error['w'], 2**-12)
