"""How messages are packed and sent. Only this module communicates.

The messages of a round are packed into one buffer per dtype, and the buffer is
averaged over the workers by one all-reduce. Messages marked `Gather` are
all-gathered instead. If a worker is several devices, each of them sends an
equal part of every message.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.types import Array, AxisName, DType, Function
from greedylore_jax._src.wire import inner_axes, quantized, rounds, worker_axes


class Transport:
  """Means and gathers over the workers, packed.

  Attributes:
    finite: whether everything received so far was finite. It is computed from
      what is equal on all workers, so they agree on it without another round.
  """

  def __init__(self, axis_name: AxisName):
    self.axis_name = axis_name
    self.finite = jnp.array(True)

  def mean(self, arrays: Sequence[Array]) -> list[Array]:
    """The means of arrays, one all-reduce per dtype; of integers in float32."""
    means: list[Any] = [None] * len(arrays)
    for members in _by_dtype(arrays).values():
      parts = self._exchange(self._mean, [arrays[i] for i in members])
      for i, part in zip(members, parts, strict=True):
        means[i] = inner_axes.join(part, arrays[i].shape)
    return means

  def gather(self, messages: Sequence[rounds.Gather]) -> list[list[Array]]:
    """The arrays of all workers, all of them by one all-gather of bytes."""
    arrays = [x for message in messages for x in message.arrays]
    parts = self._exchange(self._gather, arrays)
    joined = iter(
      [
        jax.vmap(functools.partial(inner_axes.join, shape=x.shape), 1)(part)
        for x, part in zip(arrays, parts, strict=True)
      ]
    )
    return [[next(joined) for _ in m.arrays] for m in messages]

  def quantized_mean(
    self, arrays: Sequence[Array], bits: int
  ) -> list[tuple[Array, Array]]:
    """(mean, sent) of arrays [k, m, n] in a few bits, see `rounds.Quantized`.

    Worker j averages part j of the packed message of all arrays, which takes an
    all-to-all, and an all-gather spreads its mean.
    """
    chunks = [quantized.to_chunks(x.astype(jnp.float32)) for x in arrays]
    parts = self._exchange(
      functools.partial(self._quantized, bits=bits), chunks
    )
    replies = [
      quantized.from_chunks(inner_axes.join(part, c.shape), x.shape)
      for part, c, x in zip(parts, 2 * chunks, [*arrays, *arrays], strict=True)
    ]
    count = len(arrays)
    return list(zip(replies[:count], replies[count:], strict=True))

  def _exchange(
    self, collective: Function, arrays: Sequence[Array]
  ) -> list[Array]:
    """The replies, if every device of a worker sends a part of each array."""

    def on_device(*parts: Array) -> tuple[list[Array], Array]:
      received, finite = collective(parts)
      return received, finite[None]

    devices = inner_axes.devices_per_worker()
    received: list[Array]
    received, finite = inner_axes.on_each_device(
      on_device, *(inner_axes.cut(x, devices) for x in arrays)
    )
    self.finite &= jnp.all(finite)
    return received

  def _mean(self, parts: Sequence[Array]) -> tuple[list[Array], Array]:
    """Means of arrays of one dtype, [1, n] each, and whether all is finite."""
    buffer = jnp.concatenate(parts, axis=1)
    is_integer = jnp.issubdtype(buffer.dtype, jnp.integer)
    if self.axis_name is not None:
      reduce: Function = jax.lax.psum if is_integer else jax.lax.pmean
      buffer = reduce(buffer, self.axis_name)
    if is_integer:
      workers = worker_axes.num_workers(self.axis_name)
      buffer = buffer.astype(jnp.float32) / workers
    return _split(buffer, parts), all_finite([buffer])

  def _gather(self, parts: Sequence[Array]) -> tuple[list[Array], Array]:
    """[1, n] each -> [1, N, n] of all workers, and whether all is finite."""
    as_bytes = [_to_bytes(x) for x in parts]
    buffer = jnp.concatenate(as_bytes, axis=1)
    if self.axis_name is None:
      buffer = buffer[:, None]
    else:
      known = worker_axes.types_know(self.axis_name)
      buffer = jax.lax.all_gather(
        buffer, self.axis_name, axis=1, to='invarying' if known else 'varying'
      )
    received = [
      _from_bytes(x, part.dtype)
      for x, part in zip(_split(buffer, as_bytes), parts, strict=True)
    ]
    return received, all_finite(received)

  def _quantized(
    self, parts: Sequence[Array], bits: int
  ) -> tuple[list[Array], Array]:
    """[1, n] each -> all means, then all that was sent; and if it is finite."""
    workers = worker_axes.num_workers(self.axis_name)
    flat = jnp.concatenate(parts, axis=1)
    size = flat.shape[1]
    flat = jnp.pad(flat, ((0, 0), (0, -size % (workers * quantized.CHUNK))))
    own = quantized.encode(flat.reshape(workers, -1, quantized.CHUNK), bits)
    if self.axis_name is None:
      mine = jnp.array(0)
      received = own
    else:
      mine = jax.lax.axis_index(self.axis_name)
      received = jax.lax.all_to_all(own, self.axis_name, 0, 0)
    part = jnp.mean(quantized.decode(received, bits), axis=0)
    rounded = quantized.encode(part, bits)
    (everybodys,), _ = self._gather([rounded.reshape(1, -1)])
    mean = quantized.decode(everybodys.reshape(own.shape), bits)
    # The second rounding is known to the owner of the part only.
    late = workers * (quantized.decode(rounded, bits) - part)
    is_mine = (jnp.arange(workers) == mine)[:, None, None]
    sent = quantized.decode(own, bits) + jnp.where(is_mine, late, 0)
    means, sents = (
      _split(x.reshape(1, -1)[:, :size], parts) for x in (mean, sent)
    )
    return [*means, *sents], all_finite([mean])


def all_finite(arrays: Sequence[Array]) -> Array:
  """Returns whether no floating-point array holds a NaN or an infinity.

  Empty arrays and an empty list are not reduced: inside `shard_map`, jaxlib
  0.11.2 segfaults when it compiles the reduction of an empty constant.
  """
  each = [
    jnp.all(jnp.isfinite(x))
    for x in arrays
    if x.size and jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.all(jnp.stack(each)) if each else jnp.array(True)


def _by_dtype(arrays: Sequence[Array]) -> dict[DType, list[int]]:
  """The indices of the arrays of each dtype."""
  dtypes = sorted({x.dtype for x in arrays}, key=str)
  return {d: [i for i, x in enumerate(arrays) if x.dtype == d] for d in dtypes}


def _split(buffer: Array, parts: Sequence[Array]) -> list[Array]:
  """A buffer, [..., n], split where the parts were concatenated."""
  ends = np.cumsum([x.shape[1] for x in parts])
  return list(jnp.split(buffer, ends[:-1], axis=-1))


def _to_bytes(x: Array) -> Array:
  """[1, n] -> the bytes, [1, width * n]."""
  return jax.lax.bitcast_convert_type(x, jnp.uint8).reshape(1, -1)


def _from_bytes(x: Array, dtype: DType) -> Array:
  """The inverse for each worker, [1, N, width * n] -> [1, N, n]."""
  if dtype.itemsize > 1:
    x = x.reshape(*x.shape[:2], -1, dtype.itemsize)
  return jax.lax.bitcast_convert_type(x, dtype)
