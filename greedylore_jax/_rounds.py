"""Communication rounds: generators in lock step, one packed message per round.

A compressor is a generator. Each `yield message` is a round: the messages of
all leaves that wait for it are packed into one buffer per dtype, the buffer is
averaged over the workers by one all-reduce, and every generator goes on with
its part. A message marked `Gather` is handed round whole instead. This is the
only module that communicates.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax import _axes

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


class Sent(NamedTuple):
  """One collective: what is in it, per worker."""

  kind: str
  dtype: str
  size: int


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

  for i in range(len(generators)):
    resume(i, None)
  while waiting:
    messages, waiting = waiting, {}
    gathered = [i for i, m in messages.items() if isinstance(m, Gather)]
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


class Transport:
  """The wire: means and gathers over the workers, packed.

  `finite` tells after a run whether everything received was finite. As it is
  computed from what is equal on all workers, they agree on it without a round
  of their own.
  """

  def __init__(self, axis_name: _axes.AxisName):
    self.axis_name = axis_name
    self.finite = jnp.array(True)

  def mean(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The means of arrays, one all-reduce per dtype; of integers in float32."""
    means: list[Any] = [None] * len(arrays)
    for dtype, members in _by_dtype(arrays).items():
      buffer = jnp.concatenate([arrays[i].ravel() for i in members])
      buffer = self._mean(buffer, jnp.issubdtype(dtype, jnp.integer))
      self.finite &= jnp.all(jnp.isfinite(buffer))
      ends = np.cumsum([arrays[i].size for i in members])
      for i, part in zip(members, jnp.split(buffer, ends[:-1]), strict=True):
        means[i] = part.reshape(arrays[i].shape)
    return means

  def _mean(self, buffer: jax.Array, is_integer: bool) -> jax.Array:
    if self.axis_name is None:
      return buffer.astype(jnp.float32) if is_integer else buffer
    if not is_integer:
      return jax.lax.pmean(buffer, self.axis_name)
    total = jax.lax.psum(buffer, self.axis_name)
    return total.astype(jnp.float32) / _axes.num_workers(self.axis_name)

  def gather(self, messages: Sequence[Gather]) -> list[list[jax.Array]]:
    """The arrays of all workers, all of them by one all-gather of bytes."""
    arrays = [x for message in messages for x in message.arrays]
    if not arrays:
      return []
    buffer = jnp.concatenate([_to_bytes(x) for x in arrays])
    if self.axis_name is None:
      buffer = buffer[None]
    else:
      to = 'invarying' if _axes.types_know(self.axis_name) else 'varying'
      buffer = jax.lax.all_gather(buffer, self.axis_name, to=to)
    ends = np.cumsum([x.nbytes for x in arrays])
    parts = [
        _from_bytes(part, x)
        for part, x in zip(
            jnp.split(buffer, ends[:-1], axis=1), arrays, strict=True
        )
    ]
    for part in parts:
      if jnp.issubdtype(part.dtype, jnp.floating):
        self.finite &= jnp.all(jnp.isfinite(part))
    remaining = iter(parts)
    return [[next(remaining) for _ in m.arrays] for m in messages]


class _Record:
  """In the place of a `Transport`: writes down what would be sent."""

  def __init__(self, num_workers: int):
    self.num_workers = num_workers
    self.rounds: list[list[Sent]] = []

  def mean(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    self.rounds.append([
        Sent('all-reduce', str(x.dtype), x.size) for x in arrays
    ])
    is_real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return [x if is_real(x) else x.astype(jnp.float32) for x in arrays]

  def gather(self, messages: Sequence[Gather]) -> list[list[jax.Array]]:
    for message in messages:
      size = sum(x.nbytes for x in message.arrays)
      self.rounds.append([Sent('all-gather', 'uint8', size)])
    copies = lambda x: jnp.stack([x] * self.num_workers)
    return [[copies(x) for x in message.arrays] for message in messages]


def record(
    generator: Callable[..., Rounds], dtype: Any, num_workers: int, *args: Any
) -> list[Sent]:
  """What one generator would send, an entry per round, without running it.

  Args:
    generator: a generator function.
    dtype: the dtype of its messages on the wire.
    num_workers: N, on which the shapes of what is gathered depend.
    *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
  """
  transport = _Record(num_workers)
  jax.eval_shape(lambda *xs: run([generator(*xs)], [dtype], transport), *args)
  return [sent for sent_together in transport.rounds for sent in sent_together]


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
    if isinstance(message, Gather):
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


def _by_dtype(arrays: Sequence[jax.Array]) -> dict[Any, list[int]]:
  """Which of the arrays have which dtype."""
  dtypes = sorted({x.dtype for x in arrays}, key=str)
  return {d: [i for i, x in enumerate(arrays) if x.dtype == d] for d in dtypes}


def _to_bytes(x: jax.Array) -> jax.Array:
  """An array's bytes, [*shape] -> [nbytes]."""
  return jax.lax.bitcast_convert_type(x, jnp.uint8).ravel()


def _from_bytes(buffer: jax.Array, like: jax.Array) -> jax.Array:
  """The inverse of `_to_bytes` for each worker, [N, nbytes] -> [N, *shape]."""
  width = like.dtype.itemsize
  each = (width,) if width > 1 else ()
  return jax.lax.bitcast_convert_type(
      buffer.reshape(len(buffer), *like.shape, *each), like.dtype
  )
