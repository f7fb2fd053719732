"""Steps that several methods share, as generators to `yield from`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from greedylore_jax._src.types import Array, DType, Function, PyTree, Shape
from greedylore_jax._src.wire import linalg, quantized
from greedylore_jax._src.wire.rounds import Each, Gather, Product, Rounds


def dense(h: Array, state: PyTree, key: Array) -> Rounds:
  """Everything is sent: output = mean_i H_i."""
  del key
  h_mean, h_sent = yield h
  return h_mean, h_sent, state


def project(h: Array, p: Array) -> Rounds:
  """R_i = P^T H_i is sent -> output = P R, sent = P R_i, and R = mean_i R_i.

  P, [k, a, r], is equal on all workers and its columns are orthonormal.
  """
  own = yield Product(p.mT, h)
  factor, local = yield own
  return p @ factor, p @ local, factor


def project_both(h: Array, p: Array, q: Array) -> Rounds:
  """C_i = P^T H_i Q is sent -> output = P C Q^T, sent = P C_i Q^T, and C.

  P, [k, a, r], and Q, [k, b, s], are equal on all workers and orthonormal.
  """
  left = yield Product(p.mT, h)
  core, local = yield left @ q
  return p @ core @ q.mT, p @ local @ q.mT, core


def range_of(h: Array, omega: Array, power_iterations: int = 0) -> Rounds:
  """Orthonormal Q, [k, a, s], that spans most of the mean of the h_i.

  Sends the sketch by omega, [k, b, s], and 2 more for each power iteration.
  """
  own = yield Product(h, omega)
  y, _ = yield own
  q = yield Each(linalg.orthonormal, y)
  for _ in range(power_iterations):
    z, _ = yield h.mT @ q
    z = yield Each(linalg.orthonormal, z)
    own = yield Product(h, z)
    y, _ = yield own
    q = yield Each(linalg.orthonormal, y)
  return q


def energies(scores: Array, axis: int) -> Array:
  """Sums of squares along an axis, [k, ..], up to a common factor.

  Scaled, so that those of tiny gradients do not underflow and tie.
  """
  return jnp.sum((scores / linalg.or_one(magnitude(scores))) ** 2, axis=axis)


def magnitude(x: Array) -> Array:
  """The largest magnitude of each array of a stack, [k, ...] -> [k, 1, ...]."""
  return jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), keepdims=True)


def top_columns(basis: Array, scores: Array, count: int) -> Rounds:
  """The columns of highest score, [k, a, n], [k, n] -> [k, a, count]."""
  columns = yield Each(linalg.largest(count), scores)
  return linalg.take_columns(basis, columns)


def gather_entries(
  values: Array,
  places: Array,
  shape: Shape,
  *,
  encode: Callable[[Array], tuple[Array, ...]] = lambda values: (values,),
  decode: Callable[..., Array] = lambda values: values,
) -> Rounds:
  """Entries that each worker chose are sent to all -> output, sent, and values.

  Args:
    values: this worker's entries, [k, c].
    places: where they are in their matrices of a b numbers, [k, c]; sent in as
      few bits as can say it. Of equal places, values are added up.
    shape: (k, a, b).
    encode: values to what is sent for them.
    decode: the inverse, also with a leading axis of workers.

  Returns:
    output and sent, [k, a, b], and the values of all workers, [N, k, c].
  """
  k, a, b = shape
  bits, count = quantized.place_bits(a * b), places.shape[-1]
  own = encode(values)
  *theirs, packed = yield Gather(*own, quantized.pack(places, bits))
  of_all: Function = lambda x: jnp.moveaxis(x, 0, 1).reshape(k, -1)
  received = decode(*theirs)
  total = scattered(
    of_all(received), of_all(quantized.unpack(packed, bits)[..., :count]), shape
  )
  output = total / len(received)
  return output, scattered(decode(*own), places, shape), received


def scattered(values: Array, places: Array, shape: Shape) -> Array:
  """Matrices, [k, a, b], of entries and where they are, [k, c] each."""
  k, a, b = shape
  add: Function = jax.vmap(lambda x, j: jnp.zeros(a * b, x.dtype).at[j].add(x))
  summed: Array = add(values, places).reshape(k, a, b)
  return summed


def largest_entries(flat: Array, count: int) -> tuple[Array, Array]:
  """The entries of largest magnitude and their places, [k, n] -> [k, count].

  By falling magnitude.
  """
  _, places = jax.lax.top_k(jnp.abs(flat), count)
  return jnp.take_along_axis(flat, places, axis=1), places


def normal(key: Array, shape: Shape, dtype: DType) -> Rounds:
  """Gaussian numbers, [k, ...], drawn as `_draw` says."""
  return _draw(jax.random.normal, key, shape, dtype)


def uniform(key: Array, shape: Shape) -> Rounds:
  """Numbers in [0, 1), [k, ...], drawn as `_draw` says."""
  return _draw(jax.random.uniform, key, shape, float)


def words(key: Array, shape: Shape) -> Rounds:
  """Random words of 32 bits, [k, ...], drawn as `_draw` says."""
  return _draw(jax.random.bits, key, shape, jnp.uint32)


def _draw(
  sample: Callable[..., Array], key: Array, shape: Shape, dtype: DType
) -> Rounds:
  """Random numbers of one key, or of n keys, each for k / n matrices in a row.

  They are drawn for all leaves in one loop, like any `Each`.
  """
  k, *of_matrix = shape
  keys = key.reshape(-1)
  of_leaf = k // len(keys), *of_matrix
  draws = yield Each(linalg.random_numbers(sample, of_leaf, dtype), keys)
  return draws.reshape(shape)


def share_of(count: int, share: float) -> int:
  """A share of a count, at least 1."""
  return max(1, round(share * count))
