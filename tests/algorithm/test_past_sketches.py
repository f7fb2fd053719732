"""What does `PastSketches` know from messages alone?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
import workers

SHAPE = {'w': (12, 20)}
RANK = 4


def low_rank(rank, seed=0):
  rng = np.random.default_rng(seed)
  left, right = (rng.normal(size=(n, rank)) for n in SHAPE['w'])
  return {'w': jnp.asarray(left @ right.T, jnp.float32)[None]}


def outputs(grads, decay=0.5):
  """Those of consecutive steps on one worker, without error feedback."""
  tx = gl.compress_gradients(
    gl.PastSketches(RANK, decay=decay),
    workers.AXIS,
    min_compression_rate=0,
    error_feedback=False,
  )
  update, state = workers.simulated(tx, 1), workers.fresh(tx, SHAPE, 1)
  for of_step in grads:
    updates, state = update(of_step, state)
    yield np.asarray(updates['w'])


def test_half_as_many_columns_as_directions_are_enough_with_what_is_known():
  g = low_rank(RANK)
  missing = lambda x: workers.relative(x, np.asarray(g['w'][0]))
  *_, last = outputs([g] * 20)
  *_, of_last_step = outputs([g] * 20, decay=1e-6)
  assert missing(last) < 0.1 < missing(of_last_step)


@pytest.mark.parametrize('scale', [1e-25, 1e15])
def test_a_scale_of_all_gradients_is_one_of_all_outputs(scale):
  grads = [low_rank(8, seed) for seed in range(5)]
  scaled = [jax.tree.map(lambda x: scale * x, g) for g in grads]
  for one, other in zip(outputs(grads), outputs(scaled), strict=True):
    np.testing.assert_allclose(other / scale, one, rtol=0, atol=1e-3)


def test_what_no_sketch_could_announce_does_not_overflow():
  """The columns of the second gradient are not in the last factor."""
  left, right = (
    {'w': jnp.where((jnp.arange(20) < 10) == x, low_rank(8)['w'], 0)}
    for x in (True, False)
  )
  huge = jax.tree.map(lambda x: 1e25 * x, right)
  for output in outputs([left, huge, huge, left]):
    assert np.isfinite(output).all()


@pytest.mark.parametrize('when', [0, 2])
def test_a_step_without_gradients_loses_nothing(when):
  g = low_rank(RANK)
  nothing = jax.tree.map(jnp.zeros_like, g)
  grads = [*[g] * when, *[nothing] * 300, *[g] * 6]
  *before, last = outputs(grads)
  assert not np.any(before[when])
  assert workers.relative(last, np.asarray(g['w'][0])) < 0.3


@pytest.mark.parametrize(
  ('options', 'error', 'message'),
  [
    ({'rank': 0}, ValueError, 'rank must be at least 1'),
    ({'rank': 4, 'fresh': 0}, ValueError, r'fresh must be in \(0, 1\]'),
    ({'rank': 4, 'decay': 0}, ValueError, r'decay must be in \(0, 1\]'),
  ],
)
def test_bad_arguments_are_refused(options, error, message):
  with pytest.raises(error, match=message):
    gl.PastSketches(**options)
