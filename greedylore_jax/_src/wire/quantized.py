"""Numbers in a few bits: chunks of 64 neighbors with a scale of their own."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.types import Array, DType, Shape
from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import (
  Each,
  Gather,
  Product,
  Quantized,
  Rounds,
)

CHUNK = 64
_SCALE: DType = jnp.dtype(jnp.bfloat16)  # It has the range of float32.


def bits_of(dtype: DType) -> int:
  """The bits of a number of 'int8', 'int4' or 'int2'."""
  return {'int8': 8, 'int4': 4, 'int2': 2}[jnp.dtype(dtype).name]


def chunk_bytes(bits: int) -> int:
  """The bytes of a chunk with its scale."""
  return CHUNK * bits // 8 + int(_SCALE.itemsize)


def num_chunks(shape: Shape) -> int:
  """How many chunks a message of matrices, [k, m, n], has."""
  return shape[0] * -(-math.prod(shape[1:]) // CHUNK)


def to_chunks(x: Array) -> Array:
  """[k, m, n] -> rotated chunks, [chunks, 64]; zeros end each matrix.

  Neighbors in a chunk are neighbors along the longer side, where numbers are
  of one size: the columns of a sketch differ by orders of magnitude. Whatever
  the distribution of the numbers, the rotated ones are nearly normal.
  """
  if x.shape[1] > x.shape[2]:
    x = jnp.swapaxes(x, 1, 2)
  flat = x.reshape(len(x), -1)
  flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % CHUNK)))
  return _dot(flat.reshape(-1, CHUNK), rotation())


def from_chunks(chunks: Array, shape: Shape) -> Array:
  """Inverts `to_chunks`."""
  k, m, n = shape
  flat = _dot(chunks, rotation().T).reshape(k, -1)[:, : m * n]
  if m > n:
    return jnp.swapaxes(flat.reshape(k, n, m), 1, 2)
  return flat.reshape(shape)


def rotation() -> Array:
  """An orthogonal matrix, [64, 64]: a Hadamard matrix of mixed signs."""
  hadamard: Any = np.ones((1, 1))
  while len(hadamard) < CHUNK:
    hadamard = np.kron(hadamard, [[1, 1], [1, -1]])
  # Mixed signs distribute a chunk of equal numbers over all outputs, too.
  signs = np.where(np.arange(CHUNK) ** 2 % 61 % 2, -1, 1)
  return jnp.asarray(signs[:, None] * hadamard / CHUNK**0.5, jnp.float32)


def encode(chunks: Array, bits: int) -> Array:
  """Chunks, [..., 64], as bytes, [..., chunk_bytes]; see `quantize`."""
  packed, scale = quantize(chunks, bits)
  as_bytes = jax.lax.bitcast_convert_type(scale, jnp.uint8)
  return jnp.concatenate([packed, as_bytes], axis=-1)


def decode(encoded: Array, bits: int) -> Array:
  """What chunks say, [..., chunk_bytes] -> float32 [..., 64]."""
  packed, as_bytes = jnp.split(encoded, [CHUNK * bits // 8], axis=-1)
  scale = jax.lax.bitcast_convert_type(as_bytes, _SCALE)
  return dequantize(packed, scale, bits)


def quantize(chunks: Array, bits: int) -> tuple[Array, Array]:
  """Packed levels, [..., bytes], and scales, [...], of chunks, [..., n].

  With s = 2^(bits - 1) - 1 and t the largest magnitude, a number is the nearest
  of -t .. 0 .. t in steps of t / s. Of 2 bits, where that would be three
  levels, it is the nearest of +-t / 2 and +-3 t / 2 with t 1.25 times the mean
  magnitude, which is best for normal numbers; the t that is sent fits the
  chosen levels best. A NaN makes the scale NaN, and so all numbers of the
  chunk.
  """
  if bits == 2:
    t = 1.25 * jnp.mean(jnp.abs(chunks), axis=-1, keepdims=True)
    levels = jnp.clip(jnp.floor(_ratio(chunks, t)) + 2, 0, 3)
    chosen = levels - _center(bits)
    fit = jnp.sum(chosen * chunks, axis=-1, keepdims=True)
    scale = (fit / jnp.sum(chosen**2, axis=-1, keepdims=True)).astype(_SCALE)
  else:
    t = jnp.max(jnp.abs(chunks), axis=-1, keepdims=True) / _limit(bits)
    scale = t.astype(_SCALE)
    nearest = jnp.round(_ratio(chunks, scale.astype(t.dtype)))
    levels = jnp.clip(nearest, -_limit(bits), _limit(bits)) + _center(bits)
  return pack(levels, bits), scale[..., 0]


def dequantize(packed: Array, scale: Array, bits: int) -> Array:
  """What `quantize` returned as numbers, float32, padded to whole bytes."""
  levels = unpack(packed, bits).astype(jnp.float32)
  wide = scale[..., None].astype(jnp.float32)
  decoded: Array = wide * (levels - _center(bits))
  return decoded


def place_bits(count: int) -> int:
  """The bits that say one of so many places."""
  return max(1, (count - 1).bit_length())


def pack(levels: Array, bits: int) -> Array:
  """Whole numbers below 2^bits, [..., n], as bytes, [..., n * bits / 8].

  Each takes the `bits` bits after those of the one before it, the lowest first.
  Zeros at the end fill the last group of numbers that takes whole bytes.
  """
  numbers, width = _group(bits)
  rest = [(0, 0)] * (levels.ndim - 1)
  levels = jnp.pad(levels, (*rest, (0, -levels.shape[-1] % numbers)))
  digits = levels.astype(_word(bits)).reshape(
    *levels.shape[:-1], -1, 1, numbers
  )
  begin = bits * np.arange(numbers)[None] - 8 * np.arange(width)[:, None]
  shifted = _shifted(digits, begin, 8) & 255
  packed = jnp.sum(shifted, axis=-1, dtype=shifted.dtype).astype(jnp.uint8)
  return packed.reshape(*levels.shape[:-1], -1)


def unpack(packed: Array, bits: int) -> Array:
  """Inverts `pack`; the zeros at the end stay."""
  numbers, width = _group(bits)
  parts = packed.astype(_word(bits)).reshape(*packed.shape[:-1], -1, 1, width)
  begin = 8 * np.arange(width)[None] - bits * np.arange(numbers)[:, None]
  shifted = _shifted(parts, begin, bits) & (2**bits - 1)
  levels = jnp.sum(shifted, axis=-1, dtype=shifted.dtype)
  return levels.reshape(*packed.shape[:-1], -1)


def in_few_bits(rounds: Rounds, dtype: DType) -> Rounds:
  """The same rounds with means of numbers in a few bits, [k, m, n]."""
  reply = None
  while True:
    try:
      message = rounds.send(reply)
    except StopIteration as stop:
      return stop.value
    if not isinstance(message, Gather | Each | Product | Quantized):
      message = Quantized(message, bits_of(dtype))
    reply = yield message


def _limit(bits: int) -> int:
  """The levels on each side of zero."""
  return int(2 ** (bits - 1)) - 1


def _center(bits: int) -> float:
  """The level of zero, which 2 bits do not have."""
  return 1.5 if bits == 2 else _limit(bits)


def _ratio(x: Array, unit: Array) -> Array:
  """The quotient; 0 where that is not a number or the unit is 0."""
  return jnp.nan_to_num(x / linalg.or_one(unit))


def _dot(x: Array, y: Array) -> Array:
  """A product in the full precision of float32, on every device."""
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _group(bits: int) -> tuple[int, int]:
  """How many numbers of so many bits fill whole bytes, and how many bytes."""
  common = math.gcd(bits, 8)
  return 8 // common, bits // common


def _word(bits: int) -> DType:
  """The integers in which bits are moved."""
  return jnp.uint8 if 8 % bits == 0 else jnp.uint32


def _shifted(x: Array, begin: np.ndarray, width: int) -> Array:
  """Whole numbers, [..., 1, n], moved up by `begin`, [m, n], or down.

  Of what is moved by `width` and more, the lowest `width` bits are 0.
  """
  begin = begin.reshape((1,) * (x.ndim - 2) + begin.shape)
  up = jnp.asarray(np.clip(begin, 0, width), x.dtype)
  down = jnp.asarray(np.clip(-begin, 0, 31), x.dtype)
  return (x << up) >> down
