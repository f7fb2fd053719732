"""The linear algebra of the methods: on one matrix, or on a stack [k, a, b].

What decomposes takes one matrix and is yielded as an `Each`: on CPU a batched
decomposition shares a thread pool with collectives and can wait for them for
ever.
"""

from collections.abc import Callable
from collections.abc import Generator
import contextvars
import functools
from typing import Any
from typing import Literal

import jax
import jax.numpy as jnp

from greedylore_jax._src.wire import inner_axes as _spread

Decomposition = Literal['gram', 'svd']
_transposed = contextvars.ContextVar('_transposed', default=False)


def thin_product(x: jax.Array, y: jax.Array) -> jax.Array:
  """X Y, one of them H and the other thin, [k, a, m], [k, m, b] -> [k, a, b].

  Taken as (Y^T X^T)^T where H lies transposed: a CPU needs two to four times as
  long for a thin product along the wrong side. If a worker is several devices,
  every one of them gets all of it: told so, the partitioner adds up parts of so
  little and does not gather X.
  """
  turned = _transposed.get()
  return _spread.hold((y.mT @ x.mT).mT if turned else x @ y)


def as_h_lies(
  rounds: Generator[Any, Any, Any], transposed: bool
) -> Generator[Any, Any, Any]:
  """The same rounds; tells their thin products how H lies in memory."""
  reply = None
  while True:
    token = _transposed.set(transposed)
    try:
      message = rounds.send(reply)
    except StopIteration as stop:
      return stop.value
    finally:
      _transposed.reset(token)
    reply = yield message


def orthonormal(y: jax.Array) -> jax.Array:
  """Orthonormal columns that span those of `y`, [a, r] -> [a, r].

  By Householder reflections, so they are orthonormal whatever the rank of `y`.
  """
  return jnp.linalg.qr(_unit_scale(y))[0]


def completed(y: jax.Array) -> jax.Array:
  """Orthonormal columns of `y` and others to a basis, [b, a] -> [b, b].

  What is added follows from `y` without jumps, unlike the eigenvectors of an
  eigenvalue that occurs many times.
  """
  return jnp.linalg.qr(_unit_scale(y), mode='complete')[0]


def left_singular_basis(
  decomposition: Decomposition,
) -> Callable[[jax.Array], jax.Array]:
  """A function to all left singular vectors, by falling value.

  From [a, b] to [a, a]. The columns are orthonormal whatever the rank of the
  matrix, and each one's entry of largest magnitude is positive.
  """
  return {'gram': _basis_by_gram, 'svd': _basis_by_svd}[decomposition]


def _basis_by_gram(h: jax.Array) -> jax.Array:
  """Eigenvectors of H H^T, [a, b] -> [a, a]."""
  h = _unit_scale(h)
  _, u = jnp.linalg.eigh(h @ h.T, symmetrize_input=False)
  return _fix_signs(u[:, ::-1])


def _basis_by_svd(h: jax.Array) -> jax.Array:
  """Left factor of the singular value decomposition, [a, b] -> [a, a]."""
  return _fix_signs(jnp.linalg.svd(_unit_scale(h), full_matrices=False)[0])


def _unit_scale(h: jax.Array) -> jax.Array:
  """Scaled to a largest entry of 1, so that squares do not underflow."""
  largest = jnp.max(jnp.abs(h))
  return h / jnp.where(largest > 0, largest, 1)


def _fix_signs(u: jax.Array) -> jax.Array:
  """Makes each column's entry of largest magnitude positive, [a, a]."""
  rows = jnp.argmax(jnp.abs(u), axis=0, keepdims=True)
  return u * jnp.where(jnp.take_along_axis(u, rows, axis=0) < 0, -1, 1).astype(
    u.dtype
  )


@functools.cache
def largest(count: int) -> Callable[[jax.Array], jax.Array]:
  """A function to the indices of the largest scores, [n] -> [count].

  Of equal scores the lower index wins.
  """
  return lambda scores: jax.lax.top_k(scores, count)[1]


@functools.cache
def random_numbers(
  sample: Callable[..., jax.Array], shape: tuple[int, ...], dtype: Any
) -> Callable[[jax.Array], jax.Array]:
  """A function from a PRNG key to random numbers, [] -> [*shape].

  `sample` is `jax.random.normal` or `jax.random.uniform`.
  """
  return lambda key: sample(key, shape, dtype)


def take_columns(basis: jax.Array, columns: jax.Array) -> jax.Array:
  """The columns with these indices, [k, a, n], [k, count] -> [k, a, count]."""
  return jnp.take_along_axis(basis, columns[:, None, :], axis=-1)
