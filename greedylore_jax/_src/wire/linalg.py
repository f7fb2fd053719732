"""The linear algebra of the methods: on one matrix, or on a stack [k, a, b].

Decompositions take one matrix and are yielded as an `Each`: on CPU a batched
decomposition shares a thread pool with collectives and can deadlock with them.
"""

from collections.abc import Callable
import functools
from typing import Literal

import jax
import jax.numpy as jnp

from greedylore_jax._src.types import Array, DType, Function, Shape
from greedylore_jax._src.wire import inner_axes, worker_axes

Decomposition = Literal['gram', 'svd']
OfMatrix = Callable[[Array], Array]


def thin_product(x: Array, y: Array, transposed: bool) -> Array:
  """Returns X Y, one of them H and the other thin.

  If a worker is several devices, each of them gets all of the result. With this
  constraint the partitioner sums partial products and does not gather X.

  Args:
    x: [k, a, m].
    y: [k, m, b].
    transposed: whether H is column-major. A CPU needs two to four times as long
      for a thin product along the wrong side, so it is then (Y^T X^T)^T.
  """
  product = (y.mT @ x.mT).mT if transposed else x @ y
  return inner_axes.constrain(product)


def of_each(function: OfMatrix, matrices: Array) -> Array:
  """Returns function(matrix) of each one in a stack, [k, ...].

  One after the other, except `orthonormal` on accelerators, whose libraries
  take a small matrix at a time and leave the device idle.
  """
  one_by_one: Function = functools.partial(jax.lax.map, function)
  if function is not orthonormal:
    done: Array = one_by_one(matrices)
    return done
  done = jax.lax.platform_dependent(
    matrices, cpu=one_by_one, default=jax.vmap(orthonormal_by_reflections)
  )
  return done


def orthonormal(y: Array) -> Array:
  """Returns orthonormal columns that span those of `y`, [a, r] -> [a, r].

  By Householder reflections, so they are orthonormal whatever the rank of `y`.
  """
  return jnp.linalg.qr(_unit_scale(y))[0]


def orthonormal_by_reflections(y: Array) -> Array:
  """Returns what `orthonormal` does, in operations that `jax.vmap` batches."""
  a, r = y.shape
  rows = jnp.arange(a)

  def reflect(x: Array, v: Array) -> Array:
    return x - 2 * jnp.outer(v, v @ x)

  def eliminate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    y, vs = carry
    v = _unit_scale(jnp.where(rows >= j, y[:, j], 0))
    norm = jnp.linalg.norm(v)
    v = v.at[j].add(jnp.where(v[j] < 0, -norm, norm))
    length = jnp.linalg.norm(v)
    v = v / or_one(length)
    return reflect(y, v), vs.at[:, j].set(v)

  zeros = worker_axes.varying_like(jnp.zeros_like(y), y)
  _, vs = jax.lax.fori_loop(0, r, eliminate, (_unit_scale(y), zeros))
  columns = worker_axes.varying_like(jnp.eye(a, r, dtype=y.dtype), y)
  build: Function = lambda i, q: reflect(q, vs[:, r - 1 - i])
  q: Array = jax.lax.fori_loop(0, r, build, columns)
  return q


def left_singular_basis(decomposition: Decomposition) -> OfMatrix:
  """Returns a function to all left singular vectors, by falling value.

  From [a, b] to [a, a]. The columns are orthonormal whatever the rank of the
  matrix, and each one's entry of largest magnitude is positive.
  """
  return {'gram': _basis_by_gram, 'svd': _basis_by_svd}[decomposition]


@functools.cache
def leading_directions(decomposition: Decomposition, rank: int) -> OfMatrix:
  """Returns a function to the first of them, [a, b] -> [a, rank]."""
  basis = left_singular_basis(decomposition)
  return lambda h: basis(h)[:, :rank]


def _basis_by_gram(h: Array) -> Array:
  """Eigenvectors of H H^T, [a, b] -> [a, a]."""
  h = _unit_scale(h)
  _, u = jnp.linalg.eigh(h @ h.T, symmetrize_input=False)
  return _fix_signs(u[:, ::-1])


def _basis_by_svd(h: Array) -> Array:
  """Left factor of the singular value decomposition, [a, b] -> [a, a]."""
  return _fix_signs(jnp.linalg.svd(_unit_scale(h), full_matrices=False)[0])


def _unit_scale(h: Array) -> Array:
  """Scales to a largest entry of 1, so that squares do not underflow."""
  return h / or_one(jnp.max(jnp.abs(h)))


def or_one(x: Array) -> Array:
  """Returns x, and 1 where it is not positive: something to divide by."""
  return jnp.where(x > 0, x, 1)


def _fix_signs(u: Array) -> Array:
  """Makes each column's entry of largest magnitude positive, [a, a]."""
  rows = jnp.argmax(jnp.abs(u), axis=0, keepdims=True)
  signs = jnp.where(jnp.take_along_axis(u, rows, axis=0) < 0, -1, 1)
  return u * signs.astype(u.dtype)


@functools.cache
def largest(count: int) -> OfMatrix:
  """Returns a function to the indices of the largest scores, [n] -> [count].

  Of equal scores the lower index wins.
  """
  return lambda scores: jax.lax.top_k(scores, count)[1]


@functools.cache
def random_numbers(
  sample: Callable[..., Array], shape: Shape, dtype: DType
) -> OfMatrix:
  """Returns a function from a PRNG key to random numbers, [] -> [*shape].

  `sample` is a function such as `jax.random.normal`.
  """
  return lambda key: sample(key, shape, dtype)


def take_columns(basis: Array, columns: Array) -> Array:
  """Returns the columns of these indices, [k, a, n], [k, m] -> [k, a, m]."""
  return jnp.take_along_axis(basis, columns[:, None, :], axis=-1)
