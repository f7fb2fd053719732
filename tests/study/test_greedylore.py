"""Do the programs of the study of GreedyLore measure what they say?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.greedylore import informed, replay
import greedylore_jax as gl
import workers

SHAPES = {'w': (6, 12), 'tall': (9, 5)}


def test_a_basis_of_past_sketches_loses_nothing_and_sees_the_mean_only():
  method = informed.PastSketches(rank=2, probes=2, decay=0.5)
  tx = gl.compress_gradients(method, workers.AXIS, min_compression_rate=0)
  update = workers.simulated(tx, 3)
  state = same = workers.fresh(tx, SHAPES, 3)
  for step in range(4):
    grads = workers.random_grads(SHAPES, 3, seed=step)
    mean = jax.tree.map(lambda x: jnp.broadcast_to(x.mean(0), x.shape), grads)
    before = state.error
    updates, state = update(grads, state)
    others, same = update(mean, same)
    for name in SHAPES:
      given = (grads[name] + before[name]).mean(0)
      kept = updates[name] + state.error[name].mean(0)
      assert workers.relative(kept, given) < workers.FLOAT32_ROUNDING
      rounding = workers.relative(others[name], updates[name])
      assert rounding < workers.FLOAT32_FEEDBACK


@pytest.mark.parametrize(('rank', 'age'), [(4, 0), (1, None)])
def test_the_age_of_what_is_sent(rank, age):
  """Nothing waits if all directions are sent; else something does."""
  gradients = np.random.default_rng(0).normal(size=(80, 4, 8))
  tx = gl.compress_gradients(gl.RangeFinder(rank), None, min_compression_rate=0)
  with jax.enable_x64(True):
    found = replay._measure(tx, {'4x8:w': gradients})
  if age == 0:
    np.testing.assert_allclose(found, (0, 0, 1), atol=1e-9)
  else:
    assert found.age > 1
    assert found.error > 1
    assert found.alignment < 0.9
