"""Communication rounds: generators in lock step.

A compressor is a generator. Each `yield message` is a round: the messages of
all leaves that wait for it travel together (see `_transport`), and every
generator goes on with its part of the reply.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Yields messages and returns anything. For an array it receives (its mean over
# the workers, what this worker put on the wire), for a `Gather` the arrays of
# all workers.
Rounds = Generator[Any, Any, Any]


class Gather:
  """A message that is not averaged: `x, y = yield Gather(x, y)`.

  Every worker receives the arrays of all of them, [N, *shape] each, equal on
  all. N workers receive N times as much as they send, so a mean is cheaper
  unless the message is very small.
  """

  def __init__(self, *arrays: jax.Array):
    self.arrays = arrays


class Each:
  """Work on one matrix after the other: `y = yield Each(function, x)`.

  No message, unless workers share it; as one, so that matrices of all leaves
  come together and the work is compiled once for each shape.

  Attributes:
    function: of one matrix, [a, b], to an array; known by its identity.
    matrices: [k, a, b]. What the generator receives are the k results.
    divisible: whether `matrices` are equal on all workers and the work is so
      much that these may divide it among themselves.
  """

  def __init__(
    self,
    function: Callable[[jax.Array], Any],
    matrices: jax.Array,
    divisible: bool = False,
  ):
    self.function, self.matrices = function, matrices
    self.divisible = divisible


def run(
  generators: Sequence[Rounds], dtypes: Sequence[Any], transport: Any
) -> list[Any]:
  """Drives the generators together and returns what they return.

  Args:
    generators: one per leaf; they may take different numbers of rounds.
    dtypes: what each generator's real messages are rounded to on the wire.
    transport: `Transport`, or what takes its place for a plan.
  """
  returned: list[Any] = [None] * len(generators)
  waiting: dict[int, Any] = {}

  def resume(i, reply):
    try:
      waiting[i] = generators[i].send(reply)
    except StopIteration as stop:
      returned[i] = stop.value

  def work(divided):
    """Does what leaves wait for that is no message; whether any did."""
    tasks = {
      i: x
      for i, x in waiting.items()
      if isinstance(x, Each) and transport.divides(x) == divided
    }
    results = transport.each([*tasks.values()])
    for i in tasks:
      del waiting[i]
    for i, y in zip(tasks, results, strict=True):
      resume(i, y)
    return bool(tasks)

  for i in range(len(generators)):
    resume(i, None)
  while waiting:
    if work(divided=False) or work(divided=True):
      continue
    messages, waiting = waiting, {}
    gathered = [i for i, x in messages.items() if isinstance(x, Gather)]
    averaged = [i for i in messages if i not in gathered]
    sent = [_on_the_wire(messages[i], dtypes[i]) for i in averaged]
    means = transport.mean(sent) if sent else []
    parts = transport.gather([messages[i] for i in gathered])
    for i, local, mean in zip(averaged, sent, means, strict=True):
      own = messages[i].dtype
      kept = own if jnp.issubdtype(own, jnp.floating) else mean.dtype
      resume(i, (mean.astype(kept), local.astype(kept)))
    for i, arrays in zip(gathered, parts, strict=True):
      resume(i, arrays)
  return returned


def _on_the_wire(message: jax.Array, dtype: Any) -> jax.Array:
  """A message rounded to what travels; integers travel as they are."""
  is_real = jnp.issubdtype(message.dtype, jnp.floating)
  return message.astype(dtype) if is_real else message


def as_integers(rounds: Rounds, dtype: Any, num_workers: int) -> Rounds:
  """The same rounds with messages that travel as integers, [k, m, n].

  Every column or row, whichever is longer, has its scale: the largest magnitude
  that any worker has there, which they tell each other first. The integers are
  small enough for their sum to fit their dtype. What rounding takes is not in
  what counts as sent.
  """
  limit = jnp.iinfo(dtype).max // num_workers
  if not limit:
    raise ValueError(
      f'factor_dtype={jnp.dtype(dtype).name} cannot hold the sum of'
      f' {num_workers} workers: use int16 or a floating dtype.'
    )
  reply = None
  while True:
    try:
      message = rounds.send(reply)
    except StopIteration as stop:
      return stop.value
    if isinstance(message, Gather | Each):
      reply = yield message
      continue
    along = 1 if message.shape[1] > message.shape[2] else 2
    (scales,) = yield Gather(jnp.max(jnp.abs(message), along, keepdims=True))
    scale = jnp.max(scales, axis=0)
    step = jnp.where(scale > 0, scale, 1) / limit
    # A NaN has no integer; it reaches the others with the scale.
    levels = jnp.nan_to_num(jnp.round(message / step))
    mean, local = yield levels.astype(dtype)
    reply = mean.astype(step.dtype) * step, local.astype(step.dtype) * step
