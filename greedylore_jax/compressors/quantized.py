"""Methods that send every number, in a few bits."""

import dataclasses

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, Function, PyTree, Shape
from greedylore_jax._src.wire.rounds import Gather, Rounds
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class Quantize(Compressor):
  """Every number as one of 2^bits - 1 levels of its row's largest magnitude.

  With s = 2^(bits - 1) - 1, t the largest magnitude in a row of H_i and u
  uniform in [0, 1),

    q = floor(s H_i / t + u)              sent: a * b * bits / 8 bytes and the t
    S_i = t q / s,   output = mean_i S_i,   E_i = H_i - S_i.

  S_i is unbiased, so this works without error feedback, too. The levels of
  workers have different units and cannot be added up on the way: everybody
  receives those of all N workers, which stops to pay beyond 64 / bits of them.

  Args:
    bits: of a number: 2, 4 or 8. Lower sends less and errs more.
    stochastic: random rounding as above; False rounds to the nearest level,
      which errs less and is biased: only with error feedback.

  Raises:
    ValueError: for another number of bits.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.Quantize(bits=8), 'data')

  References:
    QSGD, Alistarh et al., arXiv 1610.02132 (2017), section 3, with the largest
    magnitude for the norm as in its experiments.
  """

  bits: int = 8
  stochastic: bool = True

  takes_several = True

  def __post_init__(self) -> None:
    checks.check_choice('bits', self.bits, (2, 4, 8))

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """One round: levels and scales of all workers."""
    s = 2 ** (self.bits - 1) - 1
    t = jnp.max(jnp.abs(h), axis=-1, keepdims=True)
    u = _own_uniform(key, h) if self.stochastic else 0.5
    q = jnp.floor(h / jnp.where(t > 0, t, 1) * s + u)
    q = jnp.clip(jnp.nan_to_num(q), -s, s)  # A NaN is in t, too.
    read = lambda packed, t: t / s * (_unpack(packed, self.bits, h.shape) - s)
    output, sent = yield from _exchange(_pack(q + s, self.bits), t, read)
    return output, sent, state


@dataclasses.dataclass(frozen=True)
class Sign(Compressor):
  """The sign of every number and the mean magnitude of every row.

    t = mean |H_i| over a row             sent: a * b / 8 bytes and the t
    S_i = t sign(H_i),   output = mean_i S_i,   E_i = H_i - S_i.

  Everybody receives the signs of all N workers, which stops to pay beyond 64 of
  them.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.Sign(), 'data')

  References:
    Seide et al., 1-Bit SGD (2014); EF-signSGD, Karimireddy et al., arXiv
    1901.09847 (2019), Algorithm 1, here with a scale per row.
  """

  takes_several = True

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """One round: signs and scales of all workers."""
    del key
    t = jnp.mean(jnp.abs(h), axis=-1, keepdims=True)
    read = lambda packed, t: t * (2 * _unpack(packed, 1, h.shape) - 1)
    output, sent = yield from _exchange(_pack(h >= 0, 1), t, read)
    return output, sent, state


def _exchange(packed: Array, t: Array, read: Function) -> Rounds:
  """What all workers' messages say on average, and this worker's says."""
  everybodys = yield Gather(packed, t)
  total = sum(read(p, s) for p, s in zip(*everybodys, strict=True))
  return total / len(everybodys[0]), read(packed, t)


def _pack(levels: Array, bits: int) -> Array:
  """Whole numbers below 2^bits, [k, a, b], as bytes, [k, bytes]."""
  per_byte = 8 // bits
  flat = levels.reshape(len(levels), -1).astype(jnp.uint8)
  flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % per_byte)))
  digits = flat.reshape(len(levels), -1, per_byte)
  return jnp.sum(digits << _shifts(bits), axis=-1, dtype=jnp.uint8)


def _unpack(packed: Array, bits: int, shape: Shape) -> Array:
  """The inverse of `_pack`, as float32."""
  k, a, b = shape
  digits = (packed[:, :, None] >> _shifts(bits)) & (2**bits - 1)
  flat = digits.reshape(k, -1)[:, : a * b]
  unpacked: Array = flat.reshape(shape).astype(jnp.float32)
  return unpacked


def _shifts(bits: int) -> Array:
  """Where in a byte its digits begin, [1, 1, digits]."""
  return jnp.arange(0, 8, bits, dtype=jnp.uint8)[None, None]


def _own_uniform(key: Array, h: Array) -> Array:
  """Uniform in [0, 1), other ones for other h: workers round independently."""

  def of_leaf(key: Array, h: Array) -> Array:
    total = jnp.sum(h).astype(jnp.float32)
    own = jax.lax.bitcast_convert_type(total, jnp.uint32)
    return jax.random.uniform(jax.random.fold_in(key, own), h.shape, h.dtype)

  keys = key.reshape(-1)
  numbers = jax.vmap(of_leaf)(keys, h.reshape(len(keys), -1, *h.shape[1:]))
  return numbers.reshape(h.shape)
