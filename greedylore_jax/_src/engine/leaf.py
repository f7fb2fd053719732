"""One leaf of the parameters: what is sent for it, and what is kept."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src.engine.matrices import Matrices
from greedylore_jax._src.types import (
  Array,
  DType,
  Function,
  Phase,
  PyTree,
  Shape,
)
from greedylore_jax._src.wire import quantized, recording, rounds
from greedylore_jax.compressors import compressor as compressor_lib
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.frozen import Frozen

LeafRounds = Callable[[Array, PyTree, Array], rounds.Rounds]
"""Of (h, compressor state, key) -> (output, sent, compressor state)."""


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A leaf that is sent dense; the base of the others.

  Attributes:
    path: its place in the parameters, 'blocks/0/query'.
    shape: its shape.
    dtype: of its gradients.
    reason: why it is sent as it is, for people.
    dense_dtype: of messages in dense steps and refreshes; None is the
      gradient's.
  """

  path: str
  shape: Shape
  dtype: DType
  reason: str
  dense_dtype: DType

  @property
  def size(self) -> int:
    """How many numbers it has."""
    return math.prod(self.shape)

  @property
  def dense_bytes(self) -> int:
    """Bytes that a dense step sends for it."""
    return self.size * int(self.dtype.itemsize)

  @property
  def update_interval(self) -> int | None:
    """Steps from one refresh to the next, if it has any."""
    return None

  @property
  def is_linear(self) -> bool:
    """Whether its update depends on the errors only through their mean."""
    return True

  @property
  def takes_several(self) -> bool:
    """Whether leaves of equal shape may be exchanged as one stack."""
    return True

  @property
  def keeps_error(self) -> bool:
    """Whether what was not sent is kept for later."""
    return False

  def stacked(self, count: int) -> Self:
    """So many leaves like this one, along a new first axis."""
    return dataclasses.replace(self, path='', shape=(count, *self.shape))

  def init(self) -> tuple[PyTree, PyTree]:
    """This worker's error and the compressor state before the first step."""
    return optax.MaskedNode(), optax.MaskedNode()

  def feed(self, g: Array, error: PyTree) -> Array:
    """What is to be sent."""
    del error
    return g

  def rounds(self, phase: Phase) -> LeafRounds:
    """The exchange of the leaf, a generator function in the leaf's shape.

    `sent` is None if no error is kept.
    """
    del phase
    return _mean

  def wire_dtype(self, phase: Phase) -> DType:
    """The dtype in which its real messages are sent."""
    del phase
    return self.dense_dtype or self.dtype

  def update_error(
    self, error: PyTree, h: Array, output: Array, sent: Array | None
  ) -> PyTree:
    """What is kept for later, [1, *shape]; a dense leaf keeps nothing."""
    del h, output, sent
    return error

  def state_shapes(self) -> tuple[PyTree, PyTree]:
    """The shapes of what `init` returns."""
    return _state_shapes(dataclasses.replace(self, path=''))

  def messages(
    self, phase: Phase, *, num_workers: int = 1, devices: int = 1
  ) -> list[recording.Message]:
    """What is sent in a phase, a message per round, found by tracing."""
    leaf = dataclasses.replace(self, path='')
    return list(_messages(leaf, phase, num_workers, devices))


@dataclasses.dataclass(frozen=True)
class FrozenLeaf(Leaf):
  """A leaf that is not trained: nothing is sent."""

  @property
  def dense_bytes(self) -> int:
    """Nothing is sent in a dense run either."""
    return 0

  def rounds(self, phase: Phase) -> LeafRounds:
    """No round at all."""
    del phase
    return Frozen().compress


@dataclasses.dataclass(frozen=True)
class CompressedLeaf(Leaf):
  """A leaf of matrices that are compressed, with error feedback.

    H_i = G_i + decay E_i,   (output, S_i) = C(H_1 .. H_N),   E_i <- H_i - S_i

  Attributes:
    matrices: which axes are rows and columns.
    compressor: the method C.
    error_feedback: whether errors are kept; False forgets them.
    error_decay: what an error is multiplied by before it is added.
    error_dtype: of the errors; None is the dtype of the linear algebra.
    factor_dtype: of messages in compressed steps; None is the gradient's.
  """

  matrices: Matrices
  compressor: Compressor
  error_feedback: bool
  error_decay: float
  error_dtype: DType
  factor_dtype: DType

  @property
  def update_interval(self) -> int | None:
    """That of its method."""
    return self.compressor.update_interval

  @property
  def is_linear(self) -> bool:
    """Whether the method is, without few bits, or there are no errors."""
    dtypes = self.factor_dtype, self.dense_dtype
    is_linear = self.compressor.linear and not any(map(is_few_bits, dtypes))
    return is_linear or not self.error_feedback

  @property
  def takes_several(self) -> bool:
    """Whether the method does."""
    return self.compressor.takes_several

  @property
  def keeps_error(self) -> bool:
    """Whether there is error feedback."""
    return self.error_feedback

  def stacked(self, count: int) -> Self:
    """So many leaves like this one, along a new first axis."""
    one = super().stacked(count)
    return dataclasses.replace(one, matrices=self.matrices.stacked(count))

  def init(self) -> tuple[PyTree, PyTree]:
    """An error of zeros, [1, *shape], and the state of the method."""
    m, dtype = self.matrices, compute_dtype(self.dtype)
    state = self.compressor.init(m.k, m.a, m.b, dtype)
    if not self.error_feedback:
      return optax.MaskedNode(), state
    return jnp.zeros((1, *self.shape), self.error_dtype or dtype), state

  def feed(self, g: Array, error: PyTree) -> Array:
    """H = G + E, with the error decayed."""
    h = g.astype(compute_dtype(g.dtype))
    if not self.error_feedback:
      return h
    # In the error's shape: XLA can then write the next error in its place.
    fed: Array = (h[None] + self.error_decay * error.astype(h.dtype))[0]
    return fed

  def rounds(self, phase: Phase) -> LeafRounds:
    """The rounds of the method in this phase."""
    method = {
      'warmup': parts.dense,
      'refresh': self.compressor.refresh,
      'compress': self.compressor.compress,
    }[phase]
    matrices, dtype = self.matrices, self._dtype_in(phase)

    def exchange(h: Array, state: PyTree, key: Array) -> rounds.Rounds:
      mats = matrices.split(h)
      own = method(mats, state, key)
      compressor_lib.check_generator(self.compressor, phase, own)
      if is_few_bits(dtype):
        own = quantized.in_few_bits(own, dtype)
      own = rounds.multiplying(own, matrices.is_column_major)
      result = yield from own
      compressor_lib.check_result(self.compressor, phase, result, mats, state)
      output, sent, state = result
      sent = matrices.join(sent) if self.error_feedback else None
      return matrices.join(output), sent, state

    return exchange

  def wire_dtype(self, phase: Phase) -> DType:
    """That of the phase; the gradient's, unless it is a floating dtype."""
    dtype = self._dtype_in(phase)
    return self.dtype if dtype is None or is_few_bits(dtype) else dtype

  def update_error(
    self, error: PyTree, h: Array, output: Array, sent: Array | None
  ) -> PyTree:
    """E <- H - S, and what the update loses by rounding to the leaf's dtype."""
    if sent is None:
      return error
    error = h[None] - sent[None]
    if self.dtype != output.dtype:
      rounded = narrowed(output, self.dtype).astype(output.dtype)
      error += (output - rounded)[None]
    return error

  def _dtype_in(self, phase: Phase) -> DType:
    """What was asked for in this phase."""
    return self.factor_dtype if phase == 'compress' else self.dense_dtype


def compute_dtype(dtype: DType) -> DType:
  """The dtype of the linear algebra: float32 unless the gradient has more."""
  return jnp.promote_types(dtype, jnp.float32)


def is_few_bits(dtype: DType) -> bool:
  """Whether this is 'int8', 'int4' or 'int2'."""
  return dtype is not None and not jnp.issubdtype(dtype, jnp.floating)


def widened(x: Array) -> Array:
  """An array in the dtype of the linear algebra."""
  return jnp.asarray(x, compute_dtype(jnp.result_type(x)))


def narrowed(x: Array, dtype: DType) -> Array:
  """An array in a dtype; its largest number in place of what is beyond it."""
  if not all(jnp.issubdtype(t, jnp.floating) for t in (x.dtype, dtype)):
    return x.astype(dtype)
  finfo: Any = jnp.finfo
  limit = finfo(dtype).max
  if limit < finfo(x.dtype).max:
    x = jnp.clip(x, -limit, limit)
  return x.astype(dtype)


def map_leaves(
  function: Function, leaves: Sequence[Leaf], tree: PyTree, *trees: PyTree
) -> PyTree:
  """The tree with function(leaf, x, *what other trees have in its place)."""
  treedef: Any = jax.tree.structure(tree)
  columns = map(treedef.flatten_up_to, (tree, *trees))
  rows = zip(leaves, *columns, strict=True)
  return treedef.unflatten([function(*row) for row in rows])


def of_equal_shape(leaves: Iterable[tuple[int, Leaf]]) -> dict[str, list[int]]:
  """Groups leaves that differ only in their paths, by a name such as '64x256'.

  Args:
    leaves: (index, leaf) pairs.
  """
  kinds: dict[Leaf, list[int]] = {}
  for i, leaf in leaves:
    kinds.setdefault(dataclasses.replace(leaf, path=''), []).append(i)
  named: dict[str, list[int]] = {}
  for leaf, members in kinds.items():
    shape = 'x'.join(map(str, leaf.shape))
    others = sum(name.split('_')[0] == shape for name in named)
    named[f'{shape}_{others + 1}' if others else shape] = members
  return named


@functools.cache
def _state_shapes(leaf: Leaf) -> tuple[PyTree, PyTree]:
  error, state = jax.eval_shape(leaf.init)
  return error, state


@functools.cache
def _messages(
  leaf: Leaf, phase: Phase, num_workers: int, devices: int
) -> list[recording.Message]:
  """Traced once for all leaves that differ only in their paths."""
  g = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
  error, state = leaf.state_shapes()
  return recording.record(
    leaf.rounds(phase),
    jax.eval_shape(leaf.feed, g, error),
    state,
    jax.eval_shape(lambda: jax.random.key(0)),
    dtype=leaf.wire_dtype(phase),
    num_workers=num_workers,
    devices=devices,
  )


def _mean(g: Array, state: PyTree, key: Array) -> rounds.Rounds:
  """The mean of the gradients."""
  del key
  mean, _ = yield g
  return mean, None, state
