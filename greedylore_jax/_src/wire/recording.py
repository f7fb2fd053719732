"""What a generator would send, recorded without sending anything."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.types import Array, DType, Function
from greedylore_jax._src.wire import inner_axes, quantized, rounds

QUANTIZED = 'quantized-mean'
"""The kind of a leaf's message in a few bits, before it is packed."""


class Message(NamedTuple):
  """One collective and its payload per worker.

  Attributes:
    kind: 'all-reduce', 'all-gather' or, for the two halves of a quantized mean,
      'all-to-all' and 'all-gather'. Of one leaf, both are a 'quantized-mean'.
    dtype: its name.
    size: how many numbers of that dtype a worker sends; of a quantized mean, in
      chunks of 64.
  """

  kind: str
  dtype: str
  size: int

  @property
  def bytes(self) -> int:
    """Bytes of the payload."""
    if self.kind == QUANTIZED:
      return self.size * quantized.chunk_bytes(quantized.bits_of(self.dtype))
    return self.size * jnp.dtype(self.dtype).itemsize

  def halves(self, num_workers: int, devices: int) -> 'list[Message]':
    """A quantized mean as it is sent: each worker has the same share of it."""
    width = quantized.chunk_bytes(quantized.bits_of(self.dtype))
    share = -(-self.size // (devices * num_workers)) * devices * width
    return [
      Message('all-to-all', 'uint8', num_workers * share),
      Message('all-gather', 'uint8', share),
    ]


class Recorder:
  """Takes the place of a `Transport` and records what would be sent."""

  def __init__(self, num_workers: int, devices: int):
    self.num_workers, self.devices = num_workers, devices
    self.messages: list[Message] = []

  def mean(self, arrays: Sequence[Array]) -> list[Array]:
    """The arrays themselves, integers in float32 as a mean gives them."""
    self.messages += [
      Message('all-reduce', str(x.dtype), self._sent(x)) for x in arrays
    ]
    is_real: Function = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return [x if is_real(x) else x.astype(jnp.float32) for x in arrays]

  def gather(self, messages: Sequence[rounds.Gather]) -> list[list[Array]]:
    """The arrays once per worker."""
    for message in messages:
      size = sum(self._sent(x) * x.dtype.itemsize for x in message.arrays)
      self.messages.append(Message('all-gather', 'uint8', size))
    copies: Function = lambda x: jnp.stack([x] * self.num_workers)
    return [[copies(x) for x in message.arrays] for message in messages]

  def quantized_mean(
    self, arrays: Sequence[Array], bits: int
  ) -> list[tuple[Array, Array]]:
    """The arrays themselves."""
    for x in arrays:
      chunks = self.devices * inner_axes.part_size(
        quantized.num_chunks(x.shape), self.devices
      )
      self.messages.append(Message(QUANTIZED, f'int{bits}', chunks))
    return [(x, x) for x in arrays]

  def _sent(self, x: Array) -> int:
    """The numbers in the parts of an array that all devices send."""
    return self.devices * inner_axes.part_size(x.size, self.devices)


def record(
  generator: Callable[..., rounds.Rounds],
  *args: Any,
  dtype: DType,
  num_workers: int,
  devices: int = 1,
) -> list[Message]:
  """Returns what one generator would send, a message per round.

  Args:
    generator: a generator function.
    *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
    dtype: of its messages on the wire.
    num_workers: N, on which the shapes of gathered arrays depend.
    devices: of each worker.
  """
  recorder = Recorder(num_workers, devices)
  run = lambda *xs: rounds.run([generator(*xs)], [dtype], recorder)
  jax.eval_shape(run, *args)
  return recorder.messages
