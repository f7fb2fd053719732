"""Methods that send every number, in a few bits."""

import dataclasses
import math

import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, Function, PyTree, Shape
from greedylore_jax._src.wire import quantized
from greedylore_jax._src.wire.rounds import Gather, Quantized, Rounds
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class Quantize(Compressor):
  """Every number in a few bits, in chunks of 64 with one scale per chunk.

  A chunk is multiplied by an orthogonal Hadamard matrix of mixed signs, which
  makes its numbers nearly normal, whatever they were. q rounds them to 2^bits -
  1 levels between plus and minus the largest magnitude, or of 2 bits to four
  levels that fit normal numbers, and rotates them back:

    m_j = mean_i q(H_i)[j]                on worker j, of part j of N parts
    output[j] = q(m_j)                    sent: bits / 8 bytes per number and 2
    S_i = q(H_i), and in part i also N (q(m_i) - m_i)            per chunk
    E_i = H_i - S_i.

  The second rounding is in the error of the worker that made it, so mean_i S_i
  is the output. The bytes and the precision are the same for any number of
  workers. It is biased: use it with error feedback. `factor_dtype` does the
  same to the messages of any other method.

  Args:
    bits: of a number: 2, 4 or 8. Lower sends less and approximates worse.

  Raises:
    ValueError: for another number of bits.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.Quantize(bits=4), 'data')

  References:
    Quantized halves of an all-reduce: ZeRO++, arXiv 2306.10209 (2023). Rotated
    chunks: Suresh et al., Distributed Mean Estimation with Limited
    Communication, arXiv 1611.00429 (2017).
  """

  bits: int = 8

  takes_several = True

  def __post_init__(self) -> None:
    checks.check_choice('bits', self.bits, (2, 4, 8))

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """One round with everything in it."""
    del key
    output, sent = yield Quantized(h, self.bits)
    return output, sent, state


@dataclasses.dataclass(frozen=True)
class Sign(Compressor):
  """The sign of every number and the mean magnitude of every row.

    t = mean |H_i| over a row             sent: a * b / 8 bytes and the t
    S_i = t sign(H_i),   output = mean_i S_i,   E_i = H_i - S_i.

  Every worker receives the signs of all N workers. Beyond 64 workers this saves
  nothing.

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
    own = _signs_as_bytes(h)
    everybodys = yield Gather(own, t)
    read: Function = lambda packed, t: t * _signs(packed, h.shape)
    total = sum(read(p, s) for p, s in zip(*everybodys, strict=True))
    return total / len(everybodys[0]), read(own, t), state


def _signs_as_bytes(h: Array) -> Array:
  """[k, a, b] -> eight signs in a byte, [k, bytes]."""
  return quantized.pack((h >= 0).reshape(len(h), -1), 1)


def _signs(packed: Array, shape: Shape) -> Array:
  """The inverse, +1 or -1."""
  bits = quantized.unpack(packed, 1)[:, : math.prod(shape[1:])].reshape(shape)
  return 2 * bits.astype(jnp.float32) - 1
