"""Some entries of a matrix: what is packed, kept back, and left for later."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
from greedylore_jax._src.wire import quantized
import workers

# Sides that no block and no worker divides.
SHAPES = {'w': (13, 7), 'stack': (2, 3, 10)}
METHODS = {
  'unchanged': gl.ChunkTopK(chunk=4, keep=3),
  'signs': gl.ChunkTopK(chunk=4, keep=3, bits=1),
  '2 bits': gl.ChunkTopK(chunk=9, keep=20, bits=2),
  '4 bits': gl.ChunkTopK(chunk=4, keep=3, bits=4),
  '8 bits of frequencies': gl.ChunkTopK(
    chunk=4, keep=3, bits=8, transform='dct'
  ),
  'bfloat16': gl.ChunkTopK(chunk=4, keep=3, bits=16),
  'threshold': gl.ThresholdTopK(0.1, update_interval=3, slack=1.3),
}


@functools.cache
def compiled(method, n):
  tx = gl.compress_gradients(method, workers.AXIS, min_compression_rate=0)
  return tx, workers.simulated(tx, n)


@pytest.mark.parametrize('bits', [1, 2, 3, 4, 5, 8, 11, 12, 17, 20, 27])
def test_whole_numbers_take_as_many_bits_as_asked(bits):
  count = 13
  rng = np.random.default_rng(bits)
  levels = rng.integers(2**bits, size=(2, count), dtype=np.uint32)
  packed = np.asarray(quantized.pack(jnp.asarray(levels), bits))
  back = np.asarray(quantized.unpack(jnp.asarray(packed), bits))
  np.testing.assert_array_equal(back[:, :count], levels)
  assert not back[:, count:].any()
  digits = (levels[..., None] >> np.arange(bits, dtype=np.uint32)) & 1
  whole = np.packbits(digits.reshape(2, -1), axis=1, bitorder='little')
  np.testing.assert_array_equal(packed[:, : whole.shape[1]], whole)
  # At most seven numbers are missing from the last group of whole bytes.
  assert 8 * packed.shape[1] < bits * (count + 8)


@pytest.mark.parametrize(
  ('name', 'n'),
  [
    *((name, 3) for name in METHODS),
    *(
      pytest.param(name, n, marks=pytest.mark.slow)
      for name in ('2 bits', 'threshold')
      for n in (1, 2, 5)
    ),
  ],
)
def test_what_is_not_sent_stays_in_the_errors(name, n):
  tx, update = compiled(METHODS[name], n)
  state = workers.fresh(tx, SHAPES, n)
  for step in range(4):
    grads = workers.random_grads(SHAPES, n, seed=step)
    before = state.error
    updates, state = update(grads, state)
    workers.check_conserved(grads, before, updates, state.error)
    for leaf in SHAPES:
      came = grads[leaf].mean(0) + before[leaf].mean(0)
      assert workers.relative(updates[leaf], came) > 0.05, 'all was sent'


@pytest.mark.parametrize('name', ['2 bits', 'threshold'])
def test_gradients_of_half_precision_are_conserved(name):
  tx = gl.compress_gradients(METHODS[name], None, min_compression_rate=0)
  update, state = jax.jit(tx.update), tx.init(workers.zeros(SHAPES, 'bfloat16'))
  for step in range(3):
    grads = jax.tree.map(
      lambda g: jnp.asarray(g[0], jnp.bfloat16),
      workers.random_grads(SHAPES, 1, seed=step),
    )
    before = state.error['w'][0]
    updates, state = update(grads, state)
    assert updates['w'].dtype == jnp.bfloat16
    came = np.float32(grads['w']) + before
    went = np.float32(updates['w']) + state.error['w'][0]
    assert workers.relative(went, came) < workers.FLOAT32_ROUNDING


@pytest.mark.parametrize('transform', [None, 'dct'])
def test_with_all_entries_of_all_blocks_it_is_the_dense_mean(transform):
  tx, update = compiled(gl.ChunkTopK(chunk=4, keep=16, transform=transform), 2)
  grads = workers.random_grads(SHAPES, 2, seed=0)
  updates, state = update(grads, workers.fresh(tx, SHAPES, 2))
  for leaf in SHAPES:
    mean = grads[leaf].mean(0)
    assert workers.relative(updates[leaf], mean) < workers.FLOAT32_ROUNDING
    assert np.abs(state.error[leaf]).max() < 1e-5


def test_frequencies_of_a_smooth_matrix_are_few():
  """The control: as many of its entries are not enough."""
  x = np.cos(np.arange(16) / 9)[:, None] * np.cos(np.arange(32) / 7)
  grads = {'w': jnp.asarray(x, jnp.float32)}
  left = {}
  for transform in (None, 'dct'):
    method = gl.ChunkTopK(chunk=16, keep=24, transform=transform)
    tx = gl.compress_gradients(method, None)
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    left[transform] = workers.relative(updates['w'], x)
  assert left['dct'] < 0.05 < 0.5 < left[None]


def test_more_bits_are_more_precise():
  """Of the values that are sent, where entries are as of a gradient."""
  rng = np.random.default_rng(0)
  grads = {'w': jnp.asarray(rng.standard_t(3, (64, 128)), jnp.float32)}
  found = {}
  for bits in (1, 2, 4, 8, None):
    tx = gl.compress_gradients(gl.ChunkTopK(keep=64, bits=bits), None)
    found[bits], _ = jax.jit(tx.update)(grads, tx.init(grads))
  lost = [
    workers.relative(found[bits]['w'], found[None]['w'])
    for bits in (1, 2, 4, 8)
  ]
  assert lost == sorted(lost, reverse=True)
  for x, most in zip(lost, (0.6, 0.4, 0.2, 0.02), strict=True):
    assert x < most, lost


def test_what_does_not_fit_waits_in_the_error_and_is_sent_later():
  """20 entries above the threshold, of which a step has room for 10."""
  method = gl.ThresholdTopK(0.1, update_interval=100, slack=1)
  tx = gl.compress_gradients(method, None, min_compression_rate=0)
  update = jax.jit(tx.update)
  rng = np.random.default_rng(0)
  first = {'w': jnp.asarray(rng.permutation(100).reshape(10, 10) + 1.0)}
  _, state = update(first, tx.init(first))
  np.testing.assert_array_equal(state.compressor_state['w'], [91.0])
  more = np.zeros((10, 10), np.float32)
  more.ravel()[:20] = 1000 + np.arange(20)
  nothing = {'w': jnp.zeros((10, 10))}
  updates, state = update({'w': jnp.asarray(more)}, state)
  assert np.count_nonzero(updates['w']) == 10
  assert np.min(np.abs(updates['w'][updates['w'] != 0])) >= 1000
  later, state = update(nothing, state)
  assert np.count_nonzero(later['w']) == 10
  both = np.asarray(updates['w'] + later['w'])
  assert np.all(both.ravel()[:20] >= 1000)
  none, _ = update(nothing, state)
  assert not np.any(none['w']), 'nothing else is above the threshold'


def test_the_first_to_wait_are_not_always_the_same():
  method = gl.ThresholdTopK(0.1, update_interval=100, slack=1)
  tx = gl.compress_gradients(
    method, None, min_compression_rate=0, error_feedback=False
  )
  update = jax.jit(tx.update)
  ones = {'w': jnp.ones((10, 10))}
  _, state = update(ones, tx.init(ones))
  first = set()
  for _ in range(8):
    updates, state = update(ones, state)
    assert np.count_nonzero(updates['w']) == 10
    first.add(int(np.flatnonzero(updates['w'])[0]))
  assert len(first) > 3


def test_a_threshold_of_zero_sends_what_is_not_zero():
  """As for an embedding of which a batch has few tokens."""
  tx = gl.compress_gradients(gl.ThresholdTopK(0.2), None)
  grads = {'w': jnp.zeros((12, 20)).at[3].set(jnp.arange(20.0))}
  update, state = jax.jit(tx.update), tx.init(grads)
  for _ in range(2):
    updates, state = update(grads, state)
    np.testing.assert_array_equal(updates['w'], grads['w'])
  np.testing.assert_array_equal(state.compressor_state['w'], [0])


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: gl.ChunkTopK(keep=0), 'keep must be at least 1, got keep=0'),
    (lambda: gl.ChunkTopK(chunk=0), 'chunk must be at least 1'),
    (lambda: gl.ChunkTopK(bits=3), 'bits must be 1, 2, 4, 8, 16 or None, got'),
    (lambda: gl.ChunkTopK(transform='fft'), "transform must be 'dct' or None"),
    (lambda: gl.ThresholdTopK(0), r'density must be in \(0, 1\], got'),
    (lambda: gl.ThresholdTopK(0.1, 0), 'update_interval must be at least 1'),
    (lambda: gl.ThresholdTopK(0.1, slack=0.5), 'slack must be at least 1, got'),
  ],
)
def test_settings_out_of_range_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
