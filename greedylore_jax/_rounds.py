"""Communication rounds: generators in lock step, one packed message per round.

A compressor is a generator. Each `yield message` is a round: the messages of
all leaves that wait for it are packed into one buffer per dtype, the buffer is
averaged over the workers by one all-reduce, and every generator goes on with
its part. A message marked `Gather` is handed round whole instead. If a worker
is several devices, each of them sends an equal part of every message. This is
the only module that communicates.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax import _axes
from greedylore_jax import _spread

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
    for members in _by_dtype(arrays).values():
      parts = self._exchange(self._mean, [arrays[i] for i in members])
      for i, part in zip(members, parts, strict=True):
        means[i] = _spread.join(part, arrays[i].shape)
    return means

  def gather(self, messages: Sequence[Gather]) -> list[list[jax.Array]]:
    """The arrays of all workers, all of them by one all-gather of bytes."""
    arrays = [x for message in messages for x in message.arrays]
    if not arrays:
      return []
    parts = self._exchange(self._gather, arrays)
    whole = iter([
        jax.vmap(functools.partial(_spread.join, shape=x.shape), 1)(part)
        for x, part in zip(arrays, parts, strict=True)
    ])
    return [[next(whole) for _ in m.arrays] for m in messages]

  def _exchange(
      self, collective: Callable[..., Any], arrays: Sequence[jax.Array]
  ) -> list[jax.Array]:
    """What arrives where every device of a worker sends a part of each."""

    def on_device(*parts):
      received, finite = collective(parts)
      return received, finite[None]

    devices = _spread.devices_per_worker()
    received, finite = _spread.on_each_device(
        on_device, *(_spread.cut(x, devices) for x in arrays)
    )
    self.finite &= jnp.all(finite)
    return received

  def _mean(self, parts: Sequence[jax.Array]) -> Any:
    """Means of arrays of one dtype, [1, n] each, and whether all is finite."""
    buffer = jnp.concatenate(parts, axis=1)
    is_integer = jnp.issubdtype(buffer.dtype, jnp.integer)
    if self.axis_name is not None:
      reduce = jax.lax.psum if is_integer else jax.lax.pmean
      buffer = reduce(buffer, self.axis_name)
    if is_integer:
      workers = _axes.num_workers(self.axis_name)
      buffer = buffer.astype(jnp.float32) / workers
    return _split(buffer, parts), jnp.all(jnp.isfinite(buffer))

  def _gather(self, parts: Sequence[jax.Array]) -> Any:
    """[1, n] each -> [1, N, n] of all workers, and whether all is finite."""
    as_bytes = [_to_bytes(x) for x in parts]
    buffer = jnp.concatenate(as_bytes, axis=1)
    if self.axis_name is None:
      buffer = buffer[:, None]
    else:
      to = 'invarying' if _axes.types_know(self.axis_name) else 'varying'
      buffer = jax.lax.all_gather(buffer, self.axis_name, axis=1, to=to)
    received = [
        _from_bytes(x, part.dtype)
        for x, part in zip(_split(buffer, as_bytes), parts, strict=True)
    ]
    finite = [
        jnp.all(jnp.isfinite(x))
        for x in received
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return received, jnp.all(jnp.array(finite, bool))


class _Record:
  """In the place of a `Transport`: writes down what would be sent."""

  def __init__(self, num_workers: int, devices: int):
    self.num_workers, self.devices = num_workers, devices
    self.rounds: list[list[Sent]] = []

  def mean(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    self.rounds.append([
        Sent('all-reduce', str(x.dtype), self._sent(x)) for x in arrays
    ])
    is_real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return [x if is_real(x) else x.astype(jnp.float32) for x in arrays]

  def gather(self, messages: Sequence[Gather]) -> list[list[jax.Array]]:
    for message in messages:
      size = sum(self._sent(x) * x.dtype.itemsize for x in message.arrays)
      self.rounds.append([Sent('all-gather', 'uint8', size)])
    copies = lambda x: jnp.stack([x] * self.num_workers)
    return [[copies(x) for x in message.arrays] for message in messages]

  def _sent(self, x: jax.Array) -> int:
    """The numbers in all parts of an array together."""
    return self.devices * _spread.part_size(x.size, self.devices)


def record(
    generator: Callable[..., Rounds],
    dtype: Any,
    num_workers: int,
    devices: int,
    *args: Any,
) -> list[Sent]:
  """What one generator would send, an entry per round, without running it.

  Args:
    generator: a generator function.
    dtype: the dtype of its messages on the wire.
    num_workers: N, on which the shapes of what is gathered depend.
    devices: of each worker.
    *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
  """
  transport = _Record(num_workers, devices)
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


def _split(buffer: jax.Array, parts: Sequence[jax.Array]) -> list[jax.Array]:
  """A buffer, [..., n], cut where it was joined together from the parts."""
  ends = np.cumsum([x.shape[1] for x in parts])
  return jnp.split(buffer, ends[:-1], axis=-1)


def _to_bytes(x: jax.Array) -> jax.Array:
  """[1, n] -> the bytes, [1, width * n]."""
  return jax.lax.bitcast_convert_type(x, jnp.uint8).reshape(1, -1)


def _from_bytes(x: jax.Array, dtype: Any) -> jax.Array:
  """The inverse for each worker, [1, N, width * n] -> [1, N, n]."""
  if dtype.itemsize > 1:
    x = x.reshape(*x.shape[:2], -1, dtype.itemsize)
  return jax.lax.bitcast_convert_type(x, dtype)
