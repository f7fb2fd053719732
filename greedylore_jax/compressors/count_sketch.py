"""Count sketch: the largest entries of the mean, found without indices."""

import dataclasses

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import (
  Array,
  DType,
  Function,
  Phase,
  PyTree,
  Shape,
)
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountSketch(Compressor):
  """The largest entries of the mean, which all workers find in a mean sketch.

  Of the n = a * b entries h_i[j] of H_i, k = density * n are sent. With c =
  columns * k buckets in a row, random signs s(j) and random buckets,

    X_i[r, t] = sum of s(j) h_i[j] over j with bucket_r(j) = t
                                          sent: rows * c numbers
    m[j] = s(j) median_r (mean_i X_i)[r, bucket_r(j)]
    J = the k entries of largest |m[j]|
    S_i = H_i on J                        sent: k numbers
    output = mean_i S_i,   E_i = H_i - S_i.

  Signs and buckets are new in each step and equal on all workers. A sketch is
  linear, so the mean of sketches estimates the entries of the mean, and J is
  the same everywhere: no index is sent, and every message is averaged, so a
  worker receives as much as it sends whatever the number of workers.

  Entries are hashed by blocks of c neighbors: bucket_r(j) is (j + shift) mod
  c, with one random shift per row and block. Entries of a block never share a
  bucket, and entries of two blocks do with probability 1 / c. A sketch is then
  a sum of rotated blocks, and needs neither a table of hashes nor a scatter.

  The error of m[j] is about the norm of H over sqrt(c), in a row. The choice is
  as good as that of exact top-k where few entries are large; where all are
  alike, it is close to random, and error feedback makes up for it.

  Args:
    rows: independent estimates of an entry, of which the median is taken. More
      send more and survive collisions of large entries; 1, 3 or 5 are usual.
    columns: buckets per row and sent entry. Higher sends more and chooses
      better.
    density: share of the entries that is sent, in (0, 1]. In all, density * (1
      + rows * columns) numbers are sent per number of the matrix. Lower sends
      less and approximates worse.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.CountSketch(density=0.01), 'data')

  References:
    Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams
    (2002); two rounds for gradients: Ivkin et al., Sketched-SGD, arXiv
    1903.04488 (2019), Algorithms 1 and 2, here with error feedback and new
    hashes in each step.
  """

  rows: int = 3
  columns: float = 1.0
  density: float = 0.02

  linear = True
  takes_several = True

  def __post_init__(self) -> None:
    checks.check_integer('rows', self.rows)
    checks.check_positive('columns', self.columns)
    checks.check_share('density', self.density)

  def needs_whole(self, phase: Phase) -> bool:
    """Entries compete with all others of their matrix."""
    return phase == 'compress'

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """Two rounds: the sketch, and the entries that it finds."""
    output, sent = yield from self.send_largest(h, h, key)
    return output, sent, state

  def send_largest(self, h: Array, compared: Array, key: Array) -> Rounds:
    """H on the entries at which the mean of another array is largest.

    Args:
      h: [k, a, b], what is sent.
      compared: [k, a, b], what is sketched.
      key: equal on all workers.

    Returns:
      output and sent, as `compress` does.
    """
    k, a, b = h.shape
    places = yield from self._largest(compared.reshape(k, a * b), key)
    chosen = jnp.take_along_axis(h.reshape(k, a * b), places, axis=1)
    mean, local = yield chosen[:, None]
    put: Function = jax.vmap(
      lambda x, j: jnp.zeros(a * b, x.dtype).at[j].set(x, unique_indices=True)
    )
    back: Function = lambda x: put(x[:, 0], places).reshape(h.shape)
    return back(mean), back(local)

  def _largest(self, x: Array, key: Array) -> Rounds:
    """Places of the largest entries of the mean, [k, n] -> [k, count]."""
    k, size = x.shape
    count = parts.share_of(size, self.density)
    width = min(max(1, round(self.columns * count)), size)
    blocks = -(-size // width)
    x = jnp.pad(x, ((0, 0), (0, blocks * width - size)))
    x = x.reshape(k, blocks, width)
    shifts, signs = yield from self._hashes(key, x.shape, x.dtype)
    x = x * signs
    mean, _ = yield jnp.stack(
      [_rotate(x, shift).sum(axis=1) for shift in shifts], axis=1
    )
    estimates = [
      _rotate_one(row, -shift)
      for row, shift in zip(jnp.unstack(mean, axis=1), shifts, strict=True)
    ]
    # The signs do not change the magnitudes.
    magnitudes = jnp.abs(_median(estimates)).reshape(k, -1)[:, :size]
    return jax.lax.top_k(magnitudes, count)[1]

  def _hashes(self, key: Array, shape: Shape, dtype: DType) -> Rounds:
    """A shift per row and block, rows of [k, blocks], and signs, [*shape]."""
    k, blocks, width = shape
    of_shifts, of_signs = self.rows * blocks, -(-blocks * width // 32)
    words = yield from parts.words(key, (k, of_shifts + of_signs))
    shifts, words = jnp.split(words, [of_shifts], axis=1)
    shifts = (shifts % width).astype(jnp.int32).reshape(k, self.rows, blocks)
    bits = (
      words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None]
    ) & 1
    bits = bits.reshape(k, -1)[:, : blocks * width].reshape(shape)
    return jnp.unstack(shifts, axis=1), 1 - 2 * bits.astype(dtype)


# Blocks rotated to higher indices, [k, n, w], each by its shift, [k, n].
_rotate: Function = jax.vmap(jax.vmap(jnp.roll))
# A row [k, w] rotated by each of n shifts, [k, n], into blocks [k, n, w].
_rotate_one: Function = jax.vmap(jax.vmap(jnp.roll, (None, 0)))


def _median(arrays: list[Array]) -> Array:
  """Their median, entry by entry, by exchanging neighbors in order."""
  last = len(arrays) - 1
  for i in range(last + 1):
    for j in range(i % 2, last, 2):
      x, y = arrays[j : j + 2]
      arrays[j : j + 2] = jnp.minimum(x, y), jnp.maximum(x, y)
  return (arrays[last // 2] + arrays[(last + 1) // 2]) / 2
