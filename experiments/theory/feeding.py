"""Compressors without training: matrices in, errors and captured energy out.

All go through `gl.compress_gradients`, so the measured code is the one that
trains.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import greedylore_jax as gl

# An interval longer than any study: only the first step is a refresh.
NEVER = 10**6


def errors(
  method: gl.Compressor, gradient_at: Callable[[Any], jax.Array], steps: int
) -> np.ndarray:
  """||E|| of a single worker after each step, [steps].

  Args:
    method: the compressor, with error feedback.
    gradient_at: from a step, counted from 0, to the gradient, [a, b].
    steps: number of steps.
  """
  tx = _alone(method)

  def step(state, t):
    _, state = tx.update(gradient_at(t), state)
    return state, jnp.linalg.norm(state.error)

  start = tx.init(jax.eval_shape(gradient_at, 0))
  run = jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(steps))[1])
  return np.asarray(run(start))


def captured(
  method: gl.Compressor, h: np.ndarray, basis: np.ndarray | None, draws: int
) -> np.ndarray:
  """The share of ||H||^2 in the output, for many probes, [draws].

  Args:
    method: the compressor.
    h: [a, b].
    basis: U, [a, a], of an earlier refresh; None for methods without one.
    draws: number of probes.
  """
  gradient = jnp.asarray(h, jnp.float32)
  start = _alone(method).init(gradient)
  if basis is not None:
    start = start._replace(
      compressor_state=jnp.asarray(basis, jnp.float32)[None]
    )
  return np.asarray(_captured(method, draws, gradient, start))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _captured(method, draws, gradient, start):
  tx = _alone(method)

  def one(count):  # The probes of a step follow from its number.
    _, state = tx.update(gradient, start._replace(count=count))
    return 1 - jnp.sum(state.error**2) / jnp.sum(gradient**2)

  return jax.lax.map(one, jnp.arange(1, draws + 1))


def descend(
  method: gl.Compressor, target: np.ndarray, rate: float, steps: int
) -> np.ndarray:
  """||X - target||^2 / ||target||^2 in gradient descent from 0, [steps + 1]."""
  tx = _alone(method)
  goal = jnp.asarray(target, jnp.float32)

  def step(carry, _):
    x, state = carry
    update, state = tx.update(x - goal, state)
    return (x - rate * update, state), jnp.sum((x - goal) ** 2)

  start = jnp.zeros_like(goal), tx.init(goal)
  run = jax.jit(lambda s: jax.lax.scan(step, s, length=steps + 1)[1])
  return np.asarray(run(start)) / float(jnp.sum(goal**2))


def _alone(method):
  # Compress every shape: the studies choose what is worth compressing.
  return gl.compress_gradients(method, None, min_compression_rate=0)
