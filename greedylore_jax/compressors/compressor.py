"""What a compression method is."""

import abc
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Phase, PyTree
from greedylore_jax._src.wire.rounds import Rounds


class Compressor(abc.ABC):
  """A method: how a stack of matrices h, [k, a, b] with a <= b, is averaged.

  A subclass implements `compress`, a generator. If it has an `update_interval`,
  it also implements `refresh`, with the same arguments, which runs in the place
  of `compress` every `update_interval` steps.

    mean, sent = yield message          one round, an array [k, m, n]
    mean, sent = yield Quantized(x, 4)  one round, in 4 bits per number
    x, y = yield Gather(x, y)           one round, the arrays of all workers
    y = yield Each(function, x)         no round, one matrix after the other
    y = yield Product(h, x)             no round, h @ x along its fast side

  `mean` is the message's mean over the workers, equal on all of them. `sent` is
  what this worker really sent, its message rounded to the dtype on the wire.
  The generator returns

    output: [k, a, b], equal on all workers; stands for mean_i h_i.
    sent: [k, a, b], one per worker: this worker's share of the output, such
      that mean_i sent_i == output. The error kept for later is h - sent.
    state: what the next step needs, equal on all workers.

  `key` is a PRNG key that is equal on all workers and new in every step.
  Instances are immutable and hashable: make the subclass a frozen dataclass of
  its settings.

  Attributes:
    update_interval: steps from one refresh to the next, the first compressed
      step being one; None for methods without refresh.
    linear: whether output and state depend on the h_i only through their mean.
      A checkpoint of the mean error is then enough to resume exactly on any
      number of workers. False keeps every worker's error.
    takes_several: whether leaves of equal shape may be passed together, which
      compiles faster. Then `h` and the state are those of n leaves, [n k, ...],
      and `key` is [n], a key per leaf, for that leaf's random numbers only.

  Example:
    The mean of every row, a message of one column:

    >>> import dataclasses, greedylore_jax as gl, jax.numpy as jnp
    >>> @dataclasses.dataclass(frozen=True)
    ... class RowMeans(gl.Compressor):
    ...   linear = True
    ...
    ...   def compress(self, h, state, key):
    ...     mean, sent = yield h.mean(axis=2, keepdims=True)
    ...     full = lambda x: jnp.broadcast_to(x, h.shape)
    ...     return full(mean), full(sent), state
    >>> plan = gl.plan(RowMeans(), {'w': jnp.ones((8, 16))})
    >>> plan.bytes_in('compress')  # 8 numbers in float32
    32
  """

  update_interval: int | None = None
  linear: bool = False
  takes_several: bool = False

  def init(self, k: int, a: int, b: int, dtype: DType) -> PyTree:
    """Returns the state before the first step; by default nothing is kept."""
    del k, a, b, dtype
    return ()

  @abc.abstractmethod
  def compress(self, h: Array, state: Any, key: Array) -> Rounds:
    """A step that sends a compressed form."""

  def refresh(self, h: Array, state: Any, key: Array) -> Rounds:
    """The step every `update_interval`, which renews the state."""
    raise NotImplementedError

  def needs_whole(self, phase: Phase) -> bool:
    """Whether the devices of a worker must gather whole matrices in a phase.

    Matrices may be sharded over the devices of a worker. The answer is only
    reported by the plan; the partitioner gathers by itself.
    """
    del phase
    return False

  def leading(self, state: Any) -> Array | None:
    """The r leading directions of a basis, [k, a, r], orthonormal.

    Their drift is among the `Diagnostics`. None for methods without a basis.
    """
    del state
    return None


def check_generator(compressor: Compressor, phase: Phase, rounds: Any) -> None:
  """Raises unless a method's `compress` or `refresh` is a generator."""
  if not isinstance(rounds, Generator):
    raise TypeError(
      f'{compressor!r} must be a generator in its {phase!r} step, got'
      f' {type(rounds).__name__}: yield each message, and return (output, sent,'
      ' state).'
    )


def check_result(
  compressor: Compressor, phase: Phase, result: Any, h: Array, state: Any
) -> None:
  """Raises unless a method returns (output, sent, state) of these shapes."""
  begin = f'{compressor!r} in its {phase!r} step must return'
  if not isinstance(result, tuple) or len(result) != 3:
    got = (
      f'{len(result)} of them' if isinstance(result, tuple) else repr(result)
    )
    raise TypeError(f'{begin} (output, sent, state), got {got}.')
  for name, x in zip(('output', 'sent'), result, strict=False):
    if jnp.shape(x) != h.shape:
      raise ValueError(
        f'{begin} {name} with the shape of h, {h.shape}, got {jnp.shape(x)}.'
      )
  shapes: Any = lambda tree: jax.tree.map(jnp.shape, tree)
  new, old = shapes(result[2]), shapes(state)
  if new != old:
    raise ValueError(
      f'{begin} a state like the one that it was given, {old}, got {new}: make'
      ' it in init.'
    )


def check(compressor: Any) -> None:
  """Raises unless this is an instance of a method, complete and hashable."""
  if not isinstance(compressor, Compressor):
    got = f'{compressor!r}.'
    if isinstance(compressor, optax.GradientTransformation):
      got = 'an optax transformation: pass the compressor inside it.'
    raise TypeError(
      'compressor must be a gl.Compressor such as gl.GreedyLore(rank=32), or a'
      f' list of (pattern, compressor), got {got}'
    )
  if compressor.update_interval is not None:
    checks.check_integer('update_interval', compressor.update_interval)
  has_refresh = type(compressor).refresh is not Compressor.refresh
  if compressor.update_interval is not None and not has_refresh:
    raise TypeError(
      f'compressor has update_interval={compressor.update_interval!r}, so it'
      f' must have a method refresh (see gl.Compressor), got {compressor!r}.'
    )
  if compressor.__hash__ is None:
    raise TypeError(
      'compressor must be hashable: make it a frozen dataclass, got'
      f' {compressor!r}.'
    )
