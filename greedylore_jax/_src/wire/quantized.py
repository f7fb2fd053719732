"""Numbers in a few bits: chunks of 64 neighbours with a scale of their own."""

import math

import jax
import jax.numpy as jnp

from greedylore_jax._src.types import Array, DType, Shape
from greedylore_jax._src.wire.rounds import (
  Each,
  Gather,
  Product,
  Quantized,
  Rounds,
)

CHUNK = 64
_SCALE_BYTES = 2  # bfloat16, which has the range of float32.


def bits_of(dtype: DType) -> int:
  """The bits of a number of 'int8', 'int4' or 'int2'."""
  return {'int8': 8, 'int4': 4, 'int2': 2}[jnp.dtype(dtype).name]


def chunk_bytes(bits: int) -> int:
  """The bytes of a chunk with its scale."""
  return CHUNK * bits // 8 + _SCALE_BYTES


def num_chunks(shape: Shape) -> int:
  """How many chunks a message of matrices, [k, m, n], has."""
  return shape[0] * -(-math.prod(shape[1:]) // CHUNK)


def to_chunks(x: Array) -> Array:
  """[k, m, n] -> [chunks, 64], zeros at the end of each matrix.

  Neighbours in a chunk are neighbours along the longer side, where numbers are
  of one size: the columns of a sketch differ by orders of magnitude.
  """
  if x.shape[1] > x.shape[2]:
    x = jnp.swapaxes(x, 1, 2)
  flat = x.reshape(len(x), -1)
  flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % CHUNK)))
  return flat.reshape(-1, CHUNK)


def from_chunks(chunks: Array, shape: Shape) -> Array:
  """Inverts `to_chunks`."""
  k, m, n = shape
  flat = chunks.reshape(k, -1)[:, : m * n]
  if m > n:
    return jnp.swapaxes(flat.reshape(k, n, m), 1, 2)
  return flat.reshape(shape)


def encode(chunks: Array, bits: int) -> Array:
  """Chunks, [..., 64], as bytes, [..., chunk_bytes].

  With s = 2^(bits - 1) - 1 and t the largest magnitude, a number is the nearest
  of -t .. 0 .. t in steps of t / s. Of 2 bits, where that would be three
  levels, it is the nearest of +-t / 2 and +-3 t / 2 with t the mean magnitude.
  A NaN makes the scale NaN, and so all numbers of the chunk.
  """
  magnitudes = jnp.abs(chunks)
  if bits == 2:
    t = jnp.mean(magnitudes, axis=-1, keepdims=True)
  else:
    t = jnp.max(magnitudes, axis=-1, keepdims=True) / _limit(bits)
  scale = t.astype(jnp.bfloat16)
  wide = scale.astype(chunks.dtype)
  ratio = jnp.nan_to_num(chunks / jnp.where(wide > 0, wide, 1))
  if bits == 2:
    levels = jnp.clip(jnp.floor(ratio) + 2, 0, 3)
  else:
    levels = jnp.clip(jnp.round(ratio), -_limit(bits), _limit(bits))
    levels += _limit(bits)
  as_bytes = jax.lax.bitcast_convert_type(scale, jnp.uint8)
  packed = pack(levels, bits)
  return jnp.concatenate([packed, as_bytes.reshape(*t.shape[:-1], -1)], axis=-1)


def decode(encoded: Array, bits: int) -> Array:
  """What chunks say, [..., chunk_bytes] -> float32 [..., 64]."""
  packed, scale = jnp.split(encoded, [CHUNK * bits // 8], axis=-1)
  t = jax.lax.bitcast_convert_type(scale, jnp.bfloat16)[..., None]
  levels = unpack(packed, bits).astype(jnp.float32)
  centre = 1.5 if bits == 2 else _limit(bits)
  decoded: Array = t.astype(jnp.float32) * (levels - centre)
  return decoded


def pack(levels: Array, bits: int) -> Array:
  """Whole numbers below 2^bits, [..., n], as bytes, [..., n * bits / 8]."""
  digits = levels.astype(jnp.uint8).reshape(*levels.shape[:-1], -1, 8 // bits)
  shifted = digits << _shifts(bits, digits.ndim)
  return jnp.sum(shifted, axis=-1, dtype=jnp.uint8)


def unpack(packed: Array, bits: int) -> Array:
  """Inverts `pack`, as bytes."""
  digits = packed[..., None] >> _shifts(bits, packed.ndim + 1)
  levels: Array = (digits & (2**bits - 1)).reshape(*packed.shape[:-1], -1)
  return levels


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


def _shifts(bits: int, ndim: int) -> Array:
  """Where in a byte its digits begin, along the last of `ndim` axes."""
  shifts = jnp.arange(0, 8, bits, dtype=jnp.uint8)
  return shifts.reshape((1,) * (ndim - 1) + (-1,))
