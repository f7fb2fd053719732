"""The largest entries of each block, in a few bits, as they are or of a DCT."""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Phase, PyTree
from greedylore_jax._src.wire import quantized
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor

_RANKS = 16  # Of 2 bits, one is the sign, and 16 of the other are a scale.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkTopK(Compressor):
  """The largest entries of each block of a matrix, in a few bits each.

  A matrix is cut into blocks of equal size, of at most chunk x chunk entries.
  With D the orthonormal DCT of a block, or the identity,

    X_i = D(H_i)
    T_i = X_i at its `keep` entries of largest magnitude in each block, else 0
    S_i = D^-1(q(T_i))         sent: places of log2(chunk^2) bits, and values
    output = mean_i S_i,   E_i = H_i - S_i.

  Every worker receives the entries of all N workers. E_i also holds what q
  rounds away. For each number of bits b, the rounding q of a value is

    1    its sign; with a scale for each block, the mean magnitude.
    2    its sign, and a scale. The values of a block are sent in order of
         magnitude, and each 16 neighbors share their mean magnitude as a
         scale, which takes 1 bit per value.
    4, 8 the nearest of 2^b - 1 levels up to the largest magnitude in the block.
    16   bfloat16.

  Scales are in bfloat16. With local updates and keep=64, bits=2 this is what
  SparseLoCo sends; with transform='dct' and bits=1, in every step, DeMo. Both
  let errors fade: pass `error_decay` to `compress_gradients`.

  Args:
    chunk: largest side of a block. Higher lets entries compete with more others
      and takes more bits for a place.
    keep: entries per block. Lower sends less and approximates worse.
    bits: of a value, 1, 2, 4, 8 or 16; None sends it unchanged. Lower sends
      less and approximates worse.
    transform: 'dct' chooses and sends frequencies of a block, None its entries.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> plan = gl.plan(gl.ChunkTopK(keep=64, bits=2), {'w': jnp.ones((64, 64))})
    >>> plan.bytes_in('compress')  # 64 x 12 and 64 x 2 bits
    112

  References:
    SparseLoCo, arXiv 2508.15706 (2025). DeMo, arXiv 2411.19870 (2024).
  """

  chunk: int = 64
  keep: int = 64
  bits: int | None = None
  transform: Literal['dct'] | None = None

  takes_several = True

  def __post_init__(self) -> None:
    checks.check_integer('chunk', self.chunk)
    checks.check_integer('keep', self.keep)
    checks.check_choice('bits', self.bits, (1, 2, 4, 8, 16, None))
    checks.check_choice('transform', self.transform, ('dct', None))

  def needs_whole(self, phase: Phase) -> bool:
    """Blocks may be across the parts that devices hold."""
    return phase == 'compress'

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """One round: the entries of all workers."""
    del key
    blocks = self._cut(h)
    if self.transform:
      blocks = _dct(blocks)
    size = blocks.shape[1] * blocks.shape[2]
    keep = min(self.keep, size)
    values, places = parts.largest_entries(blocks.reshape(-1, size), keep)
    *summed, _ = yield from parts.gather_entries(
      values,
      places,
      blocks.shape,
      encode=functools.partial(_encode, bits=self.bits),
      decode=functools.partial(
        _decode, bits=self.bits, count=keep, dtype=h.dtype
      ),
    )
    output, sent = (
      self._join(_dct(x, inverse=True) if self.transform else x, h)
      for x in summed
    )
    return output, sent, state

  def _cut(self, h: Array) -> Array:
    """[k, a, b] -> blocks of equal size, [k * blocks, rows, columns]."""
    (m, rows), (n, columns) = (_blocks(x, self.chunk) for x in h.shape[1:])
    rest = (m * rows - h.shape[1], n * columns - h.shape[2])
    padded = jnp.pad(h, ((0, 0), (0, rest[0]), (0, rest[1])))
    split = padded.reshape(len(h), m, rows, n, columns)
    return jnp.swapaxes(split, 2, 3).reshape(-1, rows, columns)

  def _join(self, blocks: Array, h: Array) -> Array:
    """The inverse, without what was padded."""
    k, a, b = h.shape
    (m, rows), (n, columns) = (_blocks(x, self.chunk) for x in (a, b))
    split = jnp.swapaxes(blocks.reshape(k, m, n, rows, columns), 2, 3)
    return split.reshape(k, m * rows, n * columns)[:, :a, :b]


def _blocks(side: int, chunk: int) -> tuple[int, int]:
  """How many parts a side has, and how many entries each of them."""
  count = -(-side // chunk)
  return count, -(-side // count)


def _dct(blocks: Array, inverse: bool = False) -> Array:
  """Blocks in the basis of cosines of their sides, or back, [n, a, b]."""
  rows, columns = (
    jnp.asarray(_cosines(x), blocks.dtype) for x in blocks.shape[1:]
  )
  if inverse:
    rows, columns = rows.T, columns.T
  return rows @ blocks @ columns.T


@functools.cache
def _cosines(n: int) -> np.ndarray:
  """The orthonormal DCT-II, [n, n], a frequency per row."""
  frequency, place = np.arange(n)[:, None], np.arange(n)[None]
  angles = np.pi / n * (place + 0.5) * frequency
  cosines: np.ndarray = np.cos(angles) * np.sqrt(2 / n)
  cosines[0] /= np.sqrt(2)
  return cosines


def _encode(values: Array, bits: int | None) -> tuple[Array, ...]:
  """What is sent for values that go by falling magnitude, [k, count]."""
  if bits is None:
    return (values,)
  if bits == 16:
    return (values.astype(jnp.bfloat16),)
  if bits > 2:
    return quantized.quantize(values, bits)
  k, count = values.shape
  size = _values_per_scale(bits, count)
  magnitudes = jnp.pad(jnp.abs(values), ((0, 0), (0, -count % size)))
  sums = jnp.sum(magnitudes.reshape(k, -1, size), axis=-1)
  sizes = np.minimum(size, count - np.arange(0, count, size))[None]
  scales = (sums / jnp.asarray(sizes, sums.dtype)).astype(jnp.bfloat16)
  return quantized.pack(values >= 0, 1), scales


def _decode(
  *message: Array, bits: int | None, count: int, dtype: DType
) -> Array:
  """The values, [..., k, count], of what `_encode` returned."""
  if len(message) == 1:
    return message[0].astype(dtype)
  packed, scales = message
  if bits and bits > 2:
    values = quantized.dequantize(packed, scales, bits)
  else:
    size = _values_per_scale(bits, count)
    signs = 2 * quantized.unpack(packed, 1)[..., :count].astype(dtype) - 1
    t = jnp.repeat(scales.astype(dtype), size, axis=-1)
    values = signs * t[..., :count]
  return values[..., :count].astype(dtype)


def _values_per_scale(bits: int | None, count: int) -> int:
  """How many values of 1 or 2 bits have a scale of their own."""
  return count if bits == 1 else min(_RANKS, count)
