"""Communication rounds: generators in lock step.

A compressor is a generator. Each `yield message` is a round: the messages of
all leaves that wait for it are sent together (see `transport`), and every
generator continues with its part of the reply.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.types import Array, DType
from greedylore_jax._src.wire import inner_axes, linalg

# Yields messages and returns anything. The reply to an array or `Quantized` is
# (its mean over the workers, what this worker sent), that to a `Gather` the
# arrays of all workers, and that to an `Each` or a `Product` the result.
Rounds = Generator[Any, Any, Any]


class Gather:
  """A message that is not averaged: `x, y = yield Gather(x, y)`.

  Every worker receives the arrays of all of them, [N, *shape] each, equal on
  all. N workers receive N times as much as they send, so a mean is cheaper
  unless the message is very small.
  """

  def __init__(self, *arrays: Array):
    self.arrays = arrays


class Quantized:
  """A mean of numbers in a few bits: `mean, sent = yield Quantized(x, bits)`.

  A mean has two halves, and both are rounded: workers send parts of the message
  to each other, and then the means of these parts to all. `mean` is what
  everybody received. `sent` is this worker's share of it, with both roundings,
  so that mean_i sent_i == mean. Precision and bytes do not depend on the number
  of workers.

  Attributes:
    x: [k, m, n].
    bits: of a number: 8, 4 or 2.
  """

  def __init__(self, x: Array, bits: int):
    self.x, self.bits = x, bits


class Each:
  """Work on one matrix after the other: `y = yield Each(function, x)`.

  Nothing is sent. Matrices of all leaves are collected, so that the work is
  compiled once for each shape.

  Attributes:
    function: of one matrix, [a, b], to an array; compared by identity.
    matrices: [k, a, b]. The generator receives the k results.
  """

  def __init__(self, function: Callable[[Array], Any], matrices: Array):
    self.function, self.matrices = function, matrices


class Product:
  """A product of H with something thin: `y = yield Product(h, x)`.

  Equal to `h @ x`, or to `x @ h` for `Product(x, h)`, and computed along the
  fast side of H, whose memory layout the leaf knows. Nothing is sent.
  """

  def __init__(self, x: Array, y: Array):
    self.x, self.y = x, y


class Wire(Protocol):
  """What carries the messages of a round, or records them."""

  def mean(self, arrays: Sequence[Array]) -> list[Array]:
    """The means over the workers; those of integers in float32."""

  def gather(self, messages: Sequence[Gather]) -> list[list[Array]]:
    """The arrays of all workers, [N, *shape] each, per message."""

  def quantized_mean(
    self, arrays: Sequence[Array], bits: int
  ) -> list[tuple[Array, Array]]:
    """(mean, sent) of arrays [k, m, n], see `Quantized`."""


def run(
  generators: Sequence[Rounds], dtypes: Sequence[DType], wire: Wire
) -> list[Any]:
  """Drives the generators together and returns what they return.

  Args:
    generators: one per leaf; they may take different numbers of rounds.
    dtypes: what each generator's real messages are rounded to on the wire.
    wire: what carries the messages.
  """
  returned: list[Any] = [None] * len(generators)
  waiting: dict[int, Any] = {}

  def resume(i: int, reply: Any) -> None:
    try:
      waiting[i] = generators[i].send(reply)
    except StopIteration as stop:
      returned[i] = stop.value

  for i in range(len(generators)):
    resume(i, None)
  while waiting:
    tasks = {i: x for i, x in waiting.items() if isinstance(x, Each)}
    # Work that needs no message comes first.
    messages = {i: waiting.pop(i) for i in list(tasks or waiting)}
    gathers = {i: x for i, x in messages.items() if isinstance(x, Gather)}
    coarse = {i: x for i, x in messages.items() if isinstance(x, Quantized)}
    means = {
      i: _as_sent(x, dtypes[i])
      for i, x in messages.items()
      if i not in tasks | gathers | coarse
    }
    for i, result in zip(tasks, each([*tasks.values()]), strict=True):
      resume(i, result)
    received = wire.mean([*means.values()]) if means else []
    arrays = wire.gather([*gathers.values()]) if gathers else []
    for bits in sorted({x.bits for x in coarse.values()}):
      of_bits = {i: x.x for i, x in coarse.items() if x.bits == bits}
      replies = wire.quantized_mean([*of_bits.values()], bits)
      for (i, x), reply in zip(of_bits.items(), replies, strict=True):
        resume(i, tuple(y.astype(x.dtype) for y in reply))
    for (i, sent), mean in zip(means.items(), received, strict=True):
      own = messages[i].dtype
      kept = own if jnp.issubdtype(own, jnp.floating) else mean.dtype
      resume(i, (mean.astype(kept), sent.astype(kept)))
    for i, of_workers in zip(gathers, arrays, strict=True):
      resume(i, of_workers)
  return returned


def _as_sent(message: Array, dtype: DType) -> Array:
  """A message rounded to the dtype on the wire; integers are sent unchanged."""
  is_real = jnp.issubdtype(message.dtype, jnp.floating)
  return message.astype(dtype) if is_real else message


def each(tasks: Sequence[Each]) -> list[Array]:
  """The results of tasks, as stacks; one loop for all that do the same work."""
  together: dict[Any, list[int]] = {}
  for i, x in enumerate(tasks):
    # Matrices that are sharded over a worker's devices are not moved.
    alone = i if inner_axes.names() else None
    kind = x.function, x.matrices.shape[1:], x.matrices.dtype, alone
    together.setdefault(kind, []).append(i)
  results: list[Any] = [None] * len(tasks)
  for members in together.values():
    stacks = [tasks[i].matrices for i in members]
    done = linalg.of_each(tasks[members[0]].function, jnp.concatenate(stacks))
    ends = np.cumsum([len(x) for x in stacks])
    for i, y in zip(members, jnp.split(done, ends[:-1]), strict=True):
      results[i] = y
  return results


def multiplying(rounds: Rounds, transposed: bool) -> Rounds:
  """The same rounds, with every `Product` answered; see `thin_product`."""
  reply = None
  while True:
    try:
      message = rounds.send(reply)
    except StopIteration as stop:
      return stop.value
    if isinstance(message, Product):
      reply = linalg.thin_product(message.x, message.y, transposed)
    else:
      reply = yield message
