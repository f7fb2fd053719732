"""Communication rounds: generators in lock step, one packed mean per round.

A compressor is a generator. Each `yield message` is a round: the messages of
all leaves that wait for it are packed into one buffer per dtype, the buffer is
averaged over the workers by one all-reduce, and every generator goes on with
its part. This is the only module that communicates.
"""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AxisName = str | tuple[str, ...] | None
Average = Callable[[Sequence[jax.Array]], list[jax.Array]]
# Yields messages, receives (their mean over the workers, what this worker put
# on the wire), returns anything.
Rounds = Generator[jax.Array, tuple[jax.Array, jax.Array], Any]


def run(
    generators: Sequence[Rounds], dtypes: Sequence[Any], average: Average
) -> list[Any]:
  """Drives the generators together and returns what they return.

  Args:
    generators: one per leaf; they may take different numbers of rounds.
    dtypes: what each generator's messages are rounded to on the wire.
    average: the mean over the workers of a list of messages.
  """
  returned: list[Any] = [None] * len(generators)
  waiting = {}

  def resume(i, reply):
    try:
      waiting[i] = generators[i].send(reply)
    except StopIteration as stop:
      returned[i] = stop.value

  for i in range(len(generators)):
    resume(i, None)
  while waiting:
    messages, waiting = waiting, {}
    sent = {i: m.astype(dtypes[i]) for i, m in messages.items()}
    means = average(list(sent.values()))
    for (i, message), mean in zip(messages.items(), means, strict=True):
      resume(i, (mean.astype(message.dtype), sent[i].astype(message.dtype)))
  return returned


class PackedMean:
  """The mean over the workers of many arrays by one all-reduce per dtype.

  `finite` tells after a run whether everything received was finite. As it is
  computed from means, all workers agree on it without a round of their own.
  """

  def __init__(self, axis_name: AxisName):
    self.axis_name = axis_name
    self.finite = jnp.array(True)

  def __call__(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    means: list[Any] = [None] * len(arrays)
    for dtype in sorted({x.dtype for x in arrays}, key=str):
      members = [i for i, x in enumerate(arrays) if x.dtype == dtype]
      buffer = jnp.concatenate([arrays[i].ravel() for i in members])
      if self.axis_name is not None:
        buffer = jax.lax.pmean(buffer, self.axis_name)
      self.finite &= jnp.all(jnp.isfinite(buffer))
      ends = np.cumsum([arrays[i].size for i in members])
      for i, part in zip(members, jnp.split(buffer, ends[:-1]), strict=True):
        means[i] = part.reshape(arrays[i].shape)
    return means


def record_messages(
    generator: Callable[..., Rounds], dtype: Any, *args: Any
) -> list[jax.ShapeDtypeStruct]:
  """What a generator would send, a message per round, without running it.

  Args:
    generator: a generator function.
    dtype: the dtype of its messages on the wire.
    *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
  """
  messages: list[jax.ShapeDtypeStruct] = []

  def average(arrays):
    messages.extend(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)
    return arrays

  jax.eval_shape(lambda *xs: run([generator(*xs)], [dtype], average), *args)
  return messages


def num_workers(axis_name: AxisName) -> int:
  """How many workers share the axis; a NameError explained if none does."""
  if axis_name is None:
    return 1
  try:
    return jax.lax.axis_size(axis_name)
  except NameError:
    raise NameError(
        f'axis_name={axis_name!r} is not bound here. Call the update inside'
        f' jax.shard_map, jax.pmap or jax.vmap over an axis of that name, or'
        ' use gl.make_train_step, which does; for a single worker pass'
        ' axis_name=None.'
    ) from None


def local(tree: Any, axis_name: AxisName) -> Any:
  """The tree, typed as varying over the axis, so that gradients stay local."""

  def one(x):
    missing = tuple(missing_axes(x, axis_name))
    return jax.lax.pcast(x, missing, to='varying') if missing else x

  return jax.tree.map(one, tree)


def missing_axes(x: jax.Array, axis_name: AxisName) -> list[str]:
  """The axes over which `x` is known to be equal on all workers.

  Empty where JAX's types do not track this: under vmap, pmap and
  `check_vma=False`.
  """
  if axis_name is None:
    return []
  axes = (axis_name,) if isinstance(axis_name, str) else axis_name
  varying = _varying_axes(x)
  return [
      axis
      for axis in axes
      if axis in _varying_axes(jax.lax.axis_index(axis))
      and axis not in varying
  ]


def _varying_axes(x: jax.Array) -> frozenset[str]:
  """The mesh axes over which JAX's type of `x` says that it varies."""
  kind = jax.typeof(x)
  if hasattr(kind, 'manual_axis_type'):
    return kind.manual_axis_type.varying
  return getattr(kind, 'vma', frozenset())
