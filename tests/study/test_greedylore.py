"""Do the programs of the study of GreedyLore measure what they say?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.greedylore import replay
import greedylore_jax as gl


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
