"""Is LoRDO what its recursion says, and exact?"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
from local_steps import (
  batch_of,
  entry_computation,
  gradient,
  on_mesh,
  simulated,
)
import workers

SHAPES = {'gain': (4,), 'stack': (2, 5, 7), 'tall': (9, 6), 'wide': (5, 8)}
MATRICES = ('stack', 'tall', 'wide')
RANK, EVERY, ROUNDS = 2, 3, 4
RATE, WEIGHT, DECAY, CLIP, EPS = 0.1, 0.7, 0.05, 4.0, 1e-6
P = jax.sharding.PartitionSpec


def target(n, seed=0):
  """Every worker's own minimum."""
  return workers.random_grads(SHAPES, n, seed)


def lordo(rank=RANK, axis_name=workers.AXIS, **options):
  """With a second moment of short memory: 1 - 0.999 alone rounds by 6e-5."""
  options = {'every': EVERY, 'b2': 0.9, 'min_compression_rate': 0} | options
  return gl.lordo(RATE, rank, axis_name, **options)


def begin(tx, n, dtype=jnp.float32):
  params = workers.zeros(SHAPES, dtype)
  return params, gl.expand(tx.init(params), n, exact=False)


def trained(tx, n, steps, t, dtype=jnp.float32):
  params, state = begin(tx, n, dtype)
  step = simulated(tx, n)
  for _ in range(steps):
    params, state = step(params, state, t)
  return params, state


def low_rank(state):
  """The low-rank part of the inner state, of all workers."""
  return state.inner.tree[0]


class LowRank:
  """One matrix [a, b] of all workers, in float64."""

  def __init__(self, basis, b, n, feedback=True):
    self.q = np.asarray(basis, np.float64)
    a, r = self.q.shape
    self.errors, self.feedback = [np.zeros((a, b))] * n, feedback
    self.u, self.v = ([np.zeros((r, b))] * n for _ in range(2))

  def step(self, i, g, count):
    """Worker i's step for its gradient, without learning rate."""
    h = g + self.errors[i]
    c = self.q.T @ h
    if self.feedback:
      self.errors[i] = h - self.q @ c
    self.u[i] = 0.9 * self.u[i] + 0.1 * c
    self.v[i] = 0.9 * self.v[i] + 0.1 * c**2
    u, v = (x / (1 - 0.9**count) for x in (self.u[i], self.v[i]))
    scale = np.sqrt(v.mean(axis=0)) + EPS
    low = self.q @ (u / (np.sqrt(v) + EPS))
    return (1 - WEIGHT) * g / scale + WEIGHT * low

  def renew(self, moved):
    """The leading directions of what x has moved, and the moments in them."""
    new = np.linalg.svd(moved)[0][:, : self.q.shape[1]]
    turn = new.T @ self.q
    known = np.sum(turn**2, axis=1, keepdims=True)
    self.q = new
    self.u = [turn @ u for u in self.u]
    self.v = [turn**2 @ v + (1 - known) * v.mean(0) for v in self.v]


class FullRank(LowRank):
  """Adam, for a leaf that is not a matrix."""

  def __init__(self, shape, n):
    self.u, self.v = ([np.zeros(shape)] * n for _ in range(2))

  def step(self, i, g, count):
    self.u[i] = 0.9 * self.u[i] + 0.1 * g
    self.v[i] = 0.9 * self.v[i] + 0.1 * g**2
    u, v = (x / (1 - 0.9**count) for x in (self.u[i], self.v[i]))
    return u / (np.sqrt(v) + EPS)

  def renew(self, moved):
    pass


def split(x):
  """The matrices of a leaf, with their shorter side as rows."""
  if x.ndim < 2:
    return [x]
  x = x if x.shape[-2] <= x.shape[-1] else np.swapaxes(x, -1, -2)
  return list(x.reshape(-1, *x.shape[-2:]))


def join(parts, shape):
  if len(shape) < 2:
    return parts[0]
  x = np.stack(parts)
  x = x if shape[-2] <= shape[-1] else np.swapaxes(x, -1, -2)
  return x.reshape(shape)


def expected(n, t, bases, interval, feedback):
  """x after all rounds: the whole recursion in float64."""
  x = {k: np.zeros(shape) for k, shape in SHAPES.items()}
  parts = {
    k: [LowRank(q, split(x[k])[0].shape[1], n, feedback) for q in bases[k]]
    for k in MATRICES
  } | {'gain': [FullRank(SHAPES['gain'], n)]}
  count = 0
  for index in range(ROUNDS):
    y = [dict(x) for _ in range(n)]
    for _ in range(EVERY):
      count += 1
      for i, own in enumerate(y):
        g = {k: np.cosh(0.3 * t[k][i]) * (own[k] - t[k][i]) for k in SHAPES}
        norm = np.sqrt(sum(np.sum(one**2) for one in g.values()))
        for k, shape in SHAPES.items():
          clipped = split(g[k] * min(1, CLIP / norm))
          steps = [
            one.step(i, gi, count)
            for one, gi in zip(parts[k], clipped, strict=True)
          ]
          step = join(steps, shape) + (DECAY if len(shape) > 1 else 0) * own[k]
          own[k] = own[k] - RATE * step
    for k in SHAPES:
      mean = sum(own[k] for own in y) / n
      if index % interval == 0:
        for one, moved in zip(parts[k], split(mean - x[k]), strict=True):
          one.renew(moved)
      x[k] = mean
  return x


def check_oracle(n, dtype, tolerance, interval=1, feedback=True):
  t = jax.tree.map(lambda x: np.asarray(x, dtype), target(n))
  tx = lordo(
    quasi_hyperbolic=WEIGHT,
    weight_decay=DECAY,
    clip_norm=CLIP,
    eps=EPS,
    update_interval=interval,
    error_feedback=feedback,
  )
  params, state = begin(tx, n, dtype)
  bases = {k: low_rank(state).basis[k][0] for k in MATRICES}
  params, _ = trained(tx, n, EVERY * ROUNDS, t, dtype)
  for name, want in expected(n, t, bases, interval, feedback).items():
    assert workers.relative(params[name], want) < tolerance, name


@pytest.mark.parametrize('n', [1, 2, 3])
@pytest.mark.parametrize('interval', [1, 2])
def test_float64_follows_the_oracle(n, interval):
  with jax.enable_x64(True):
    check_oracle(n, np.float64, 1e-10, interval)


def test_float64_follows_the_oracle_without_error_feedback():
  with jax.enable_x64(True):
    check_oracle(2, np.float64, 1e-10, feedback=False)


@pytest.mark.parametrize('n', [1, 2, 3])
def test_float32_follows_the_oracle(n):
  check_oracle(n, np.float32, 1e-5)
