"""The linear algebra of the methods, on stacks [k, a, b] with a <= b."""

from typing import Literal

import jax
import jax.numpy as jnp

from greedylore_jax import _spread

Decomposition = Literal['gram', 'svd']


def left_singular_basis(
    h: jax.Array, decomposition: Decomposition = 'gram'
) -> jax.Array:
  """All left singular vectors, by falling value: [k, a, b] -> [k, a, a].

  One matrix is decomposed at a time: on CPU a batched decomposition shares a
  thread pool with collectives and can wait for them for ever.
  """
  return jax.lax.map(lambda x: left_singular_vectors(x, decomposition), h)


def left_singular_vectors(
    h: jax.Array, decomposition: Decomposition
) -> jax.Array:
  """All those of one matrix, [a, b] -> [a, a].

  The columns are orthonormal whatever the rank of `h`, and each one's entry of
  largest magnitude is positive.
  """
  decompose = {'gram': _basis_by_gram, 'svd': _basis_by_svd}[decomposition]
  return _fix_signs(decompose(_unit_scale(h)))


def thin_product(x: jax.Array, y: jax.Array) -> jax.Array:
  """X Y for a Y of few columns, [k, a, b], [k, b, m] -> [k, a, m].

  If a worker is several devices, every one of them gets all of it: told so, the
  partitioner adds up parts of so little and does not gather X.
  """
  return _spread.hold(x @ y)


def orthonormal(y: jax.Array) -> jax.Array:
  """Orthonormal columns that span those of `y`, [k, a, r] -> [k, a, r].

  By Householder reflections, so they are orthonormal whatever the rank of `y`.
  """
  return jax.lax.map(lambda x: jnp.linalg.qr(_unit_scale(x))[0], y)


def completed(y: jax.Array) -> jax.Array:
  """Orthonormal columns of `y` and others to a basis, [k, b, a] -> [k, b, b].

  What is added follows from `y` without jumps, unlike the eigenvectors of an
  eigenvalue that occurs many times.
  """
  one = lambda x: jnp.linalg.qr(_unit_scale(x), mode='complete')[0]
  return jax.lax.map(one, y)


def _basis_by_gram(h: jax.Array) -> jax.Array:
  """Eigenvectors of H H^T, [a, b] -> [a, a]."""
  _, u = jnp.linalg.eigh(h @ h.T, symmetrize_input=False)
  return u[:, ::-1]


def _basis_by_svd(h: jax.Array) -> jax.Array:
  """Left factor of the singular value decomposition, [a, b] -> [a, a]."""
  return jnp.linalg.svd(h, full_matrices=False)[0]


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


def top_columns(basis: jax.Array, scores: jax.Array, count: int) -> jax.Array:
  """The columns of highest score, [k, a, n], [k, n] -> [k, a, count].

  Of equal scores the lower index wins.
  """
  _, columns = jax.lax.top_k(scores, count)
  return jnp.take_along_axis(basis, columns[:, None, :], axis=-1)
