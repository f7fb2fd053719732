"""The wire: how messages are packed and sent. Only this module communicates.

The messages of a round are packed into one buffer per dtype, and the buffer is
averaged over the workers by one all-reduce. What is marked `Gather` is handed
round whole instead. If a worker is several devices, each of them sends an equal
part of every message.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.wire import inner_axes as _spread
from greedylore_jax._src.wire import rounds as _rounds
from greedylore_jax._src.wire import worker_axes as _axes


class Sent(NamedTuple):
  """One collective: what is in it, per worker."""

  kind: str
  dtype: str
  size: int

  @property
  def bytes(self) -> int:
    """Of all its numbers."""
    return self.size * jnp.dtype(self.dtype).itemsize


class Transport:
  """The wire: means and gathers over the workers, packed.

  `finite` tells after a run whether everything received was finite. As it is
  computed from what is equal on all workers, they agree on it without a round
  of their own. With `shares`, divisible work is divided: each matrix is one
  worker's, who tells the others the result.
  """

  def __init__(self, axis_name: _axes.AxisName, shares: bool = False):
    self.axis_name = axis_name
    self.shares = shares and axis_name is not None
    self.finite = jnp.array(True)

  def mean(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The means of arrays, one all-reduce per dtype; of integers in float32."""
    means: list[Any] = [None] * len(arrays)
    for members in _by_dtype(arrays).values():
      parts = self._exchange(self._mean, [arrays[i] for i in members])
      for i, part in zip(members, parts, strict=True):
        means[i] = _spread.join(part, arrays[i].shape)
    return means

  def gather(self, messages: Sequence[_rounds.Gather]) -> list[list[jax.Array]]:
    """The arrays of all workers, all of them by one all-gather of bytes."""
    arrays = [x for message in messages for x in message.arrays]
    if not arrays:
      return []
    parts = self._exchange(self._gather, arrays)
    whole = iter(
      [
        jax.vmap(functools.partial(_spread.join, shape=x.shape), 1)(part)
        for x, part in zip(arrays, parts, strict=True)
      ]
    )
    return [[next(whole) for _ in m.arrays] for m in messages]

  def divides(self, task: _rounds.Each) -> bool:
    """Whether the workers divide this among themselves."""
    return self.shares and task.divisible

  def each(self, tasks: Sequence[_rounds.Each]) -> list[jax.Array]:
    """The results, as stacks; of divided work by one all-reduce per dtype."""
    if tasks and self.divides(tasks[0]):
      return self._divided(tasks)
    # Where matrices lie spread, they are left where they lie.
    alike = _alike(tasks) if _spread.devices_per_worker() == 1 else None
    results: list[Any] = [None] * len(tasks)
    for members in alike or [[i] for i in range(len(tasks))]:
      stacks = [tasks[i].matrices for i in members]
      done = jax.lax.map(tasks[members[0]].function, jnp.concatenate(stacks))
      ends = np.cumsum([len(x) for x in stacks])
      for i, y in zip(members, jnp.split(done, ends[:-1]), strict=True):
        results[i] = y
    return results

  def _divided(self, tasks: Sequence[_rounds.Each]) -> list[jax.Array]:
    """Every matrix by one worker, who tells the others."""
    owners = _owners(tasks, _axes.num_workers(self.axis_name))
    me = jax.lax.axis_index(self.axis_name)
    parts = [
      self._own_part(task, owner == me)
      for task, owner in zip(tasks, owners, strict=True)
    ]
    results: list[Any] = [None] * len(parts)
    for members in _by_dtype(parts).values():
      flat = [parts[i].reshape(1, -1) for i in members]
      total = jax.lax.psum(jnp.concatenate(flat, axis=1), self.axis_name)
      for i, x in zip(members, _split(total, flat), strict=True):
        results[i] = x.reshape(parts[i].shape)
    return results

  def _own_part(self, task: _rounds.Each, mine: jax.Array) -> jax.Array:
    """What becomes of the matrices that are marked, zeros for the others."""
    result = jax.eval_shape(task.function, task.matrices[0])
    nothing, matrices = _axes.local(
      (jnp.zeros(result.shape, result.dtype), task.matrices), self.axis_name
    )
    one = lambda x: jax.lax.cond(x[1], task.function, lambda _: nothing, x[0])
    return jax.lax.map(one, (matrices, mine))

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
    return _split(buffer, parts), all_finite([buffer])

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
    return received, all_finite(received)


class _Record:
  """In the place of a `Transport`: writes down what would be sent."""

  def __init__(self, num_workers: int, devices: int, shares: bool):
    self.num_workers, self.devices = num_workers, devices
    self.shares = shares
    self.rounds: list[list[Sent]] = []

  def mean(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    self.rounds.append(
      [Sent('all-reduce', str(x.dtype), self._sent(x)) for x in arrays]
    )
    is_real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return [x if is_real(x) else x.astype(jnp.float32) for x in arrays]

  def gather(self, messages: Sequence[_rounds.Gather]) -> list[list[jax.Array]]:
    for message in messages:
      size = sum(self._sent(x) * x.dtype.itemsize for x in message.arrays)
      self.rounds.append([Sent('all-gather', 'uint8', size)])
    copies = lambda x: jnp.stack([x] * self.num_workers)
    return [[copies(x) for x in message.arrays] for message in messages]

  def divides(self, task: _rounds.Each) -> bool:
    return self.shares and task.divisible

  def each(self, tasks: Sequence[_rounds.Each]) -> list[jax.Array]:
    results = Transport(None).each(tasks)
    if tasks and self.divides(tasks[0]):
      self.rounds.append(
        [Sent('all-reduce', str(x.dtype), x.size) for x in results]
      )
    return results

  def _sent(self, x: jax.Array) -> int:
    """The numbers in all parts of an array together."""
    return self.devices * _spread.part_size(x.size, self.devices)


def record(
  generator: Callable[..., _rounds.Rounds],
  dtype: Any,
  num_workers: int,
  devices: int,
  shares: bool,
  *args: Any,
) -> list[Sent]:
  """What one generator would send, an entry per round, without running it.

  Args:
    generator: a generator function.
    dtype: the dtype of its messages on the wire.
    num_workers: N, on which the shapes of what is gathered depend.
    devices: of each worker.
    shares: see `Transport`.
    *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
  """
  transport = _Record(num_workers, devices, shares)
  run = lambda *xs: _rounds.run([generator(*xs)], [dtype], transport)
  jax.eval_shape(run, *args)
  return [sent for sent_together in transport.rounds for sent in sent_together]


def all_finite(arrays: Sequence[jax.Array]) -> jax.Array:
  """Whether no floating-point array holds a NaN or an infinity.

  Empty arrays and an empty list are not reduced: inside `shard_map`, jaxlib
  0.11.2 segfaults when it compiles the reduction of an empty constant.
  """
  each = [
    jnp.all(jnp.isfinite(x))
    for x in arrays
    if x.size and jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.all(jnp.stack(each)) if each else jnp.array(True)


def _alike(tasks: Sequence[_rounds.Each]) -> list[list[int]]:
  """Tasks that are the same work on matrices of one shape."""
  kinds: dict[Any, list[int]] = {}
  for i, x in enumerate(tasks):
    kind = x.function, x.matrices.shape[1:], x.matrices.dtype
    kinds.setdefault(kind, []).append(i)
  return list(kinds.values())


def _owners(tasks: Sequence[_rounds.Each], workers: int) -> list[jax.Array]:
  """Whose each matrix is, [k] per task: the largest first, to who has least."""
  rows = lambda task: min(task.matrices.shape[1:])
  cost = lambda task: rows(task) ** 2 * max(task.matrices.shape[1:])
  each = [(i, j) for i, t in enumerate(tasks) for j in range(len(t.matrices))]
  load = [0] * workers
  owners = [np.zeros(len(task.matrices), np.int32) for task in tasks]
  for i, j in sorted(each, key=lambda x: -cost(tasks[x[0]])):
    owners[i][j] = least = load.index(min(load))
    load[least] += cost(tasks[i])
  return [jnp.array(x) for x in owners]


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
