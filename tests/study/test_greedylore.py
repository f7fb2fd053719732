"""Do the programs of the study of GreedyLore measure what they say?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.greedylore import replay
from experiments.greedylore.past_sketches import PastSketches
import greedylore_jax as gl
import workers

SHAPES = {'w': (6, 12), 'tall': (9, 5)}


@dataclasses.dataclass(frozen=True)
class Turns(gl.Compressor):
  """Sends the two rows of a matrix in turn."""

  def init(self, k, a, b, dtype):
    return jnp.zeros([], jnp.int32)

  def compress(self, h, turn, key):
    mean, sent = yield jnp.where(jnp.arange(2)[:, None] == turn % 2, h, 0)
    return mean, sent, turn + 1


def measured(method, gradients=None):
  """Of one matrix; by default its gradients have no direction in common."""
  if gradients is None:
    gradients = np.random.default_rng(0).normal(size=(80, 4, 8))
  tx = gl.compress_gradients(method, None, min_compression_rate=0)
  with jax.enable_x64(True):
    return replay.measure(tx, {'w': gradients})


def test_past_sketches_conserves_the_mean_and_depends_on_nothing_else():
  method = PastSketches(rank=2, probes=2, decay=0.5)
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


def test_a_method_that_sends_everything_sends_it_at_once():
  assert measured(gl.RangeFinder(4)) == pytest.approx((0, 0, 1), abs=1e-9)


def test_a_quarter_of_the_directions_is_too_few_for_random_gradients():
  found = measured(gl.RangeFinder(1))
  assert found.age > 1
  assert found.error > 1
  assert found.alignment < 0.9


def test_the_age_is_the_steps_since_the_gradient():
  """Each row that is sent is the sum of the last two gradients."""
  gradients = np.zeros((80, 2, 4))
  gradients[:, 0, 0] = gradients[:, 1, 1] = 1
  assert measured(Turns(), gradients).age == pytest.approx(0.5)
