"""What holds for every method: which leaves, since when, with what precision.

A `Policy` is a compressor plus these decisions. The transformation executes it
and the plan reads it, so that what is predicted and what is sent cannot differ.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import re
from typing import Any
from typing import Literal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax import _leaves
from greedylore_jax import _linalg
from greedylore_jax import _matrices
from greedylore_jax import _rounds
from greedylore_jax import _schedule
from greedylore_jax import _transport
from greedylore_jax.compressors import base

Compressors = base.Compressor | Sequence[tuple[str, base.Compressor]]
ErrorFeedback = bool | Literal['ef14', 'ef21']


class Tracked(NamedTuple):
  """Memory under EF21: the compressor's, and what all workers follow."""

  memory: Any
  mean: jax.Array


@dataclasses.dataclass(frozen=True)
class Policy:
  """The settings of `compress_gradients`, checked; see there for each."""

  compressor: Compressors
  start_step: int = 0
  error_feedback: ErrorFeedback = True
  min_compression_rate: float = 1.0
  weight_dimension_numbers: Any = None
  error_dtype: Any = None
  factor_dtype: Any = None
  stagger: bool = False
  share_decompositions: bool = False

  def __post_init__(self):
    for _, compressor in self.rules:
      base.check_compressor(compressor)
    base.check_integer('start_step', self.start_step, at_least=0)
    if self.min_compression_rate < 0:
      raise ValueError(
          'min_compression_rate must not be negative, got'
          f' min_compression_rate={self.min_compression_rate!r}.'
      )
    if self.error_feedback not in (True, False, 'ef14', 'ef21'):
      raise ValueError(
          "error_feedback must be True (which is 'ef14'), False or 'ef21', got"
          f' error_feedback={self.error_feedback!r}.'
      )
    if self.error_dtype is not None:
      if not jnp.issubdtype(self.error_dtype, jnp.floating):
        raise TypeError(
            f'error_dtype must be a floating dtype, got {self.error_dtype!r}.'
        )
      if self.error_feedback == 'ef21':
        raise ValueError(
            "error_feedback='ef21' follows the gradients by differences, whose"
            ' rounding would add up: leave error_dtype at None.'
        )
    if self.factor_dtype is not None and not any(
        jnp.issubdtype(self.factor_dtype, kind)
        for kind in (jnp.floating, jnp.signedinteger)
    ):
      raise TypeError(
          'factor_dtype must be a floating or signed integer dtype, got'
          f' {self.factor_dtype!r}.'
      )

  @property
  def rules(self) -> list[tuple[str, base.Compressor]]:
    """Ordered (pattern of paths, compressor); the first match holds."""
    if isinstance(self.compressor, Sequence):
      return [(pattern, compressor) for pattern, compressor in self.compressor]
    return [('', self.compressor)]

  def schedule(self, leaves: list[_leaves.Leaf]) -> _schedule.Schedule:
    """The kinds of step that can occur, and when."""
    intervals = {
        i: leaf.compressor.update_interval
        for i, leaf in enumerate(leaves) if leaf.compressor
    }  # fmt: skip
    refreshed = {i: n for i, n in intervals.items() if n}
    if not (self.stagger and refreshed):
      return _schedule.Schedule(self.start_step, intervals.values())
    alike = _leaves.alike({i: leaves[i] for i in refreshed})
    return _schedule.Staggered(self.start_step, refreshed, alike)

  def shares(self, devices_per_worker: int) -> bool:
    """Whether the workers share the decompositions of a refresh."""
    if self.share_decompositions and devices_per_worker > 1:
      raise ValueError(
          'share_decompositions=True needs workers of one device each, got'
          f' {devices_per_worker} devices per worker: leave it at False.'
      )
    return self.share_decompositions

  def is_linear(self, leaves: list[_leaves.Leaf]) -> bool:
    """Whether the updates depend on the errors only through their mean."""
    dtype = self.factor_dtype
    return all(x.compressor.linear for x in leaves if x.compressor) and (
        dtype is None or jnp.issubdtype(dtype, jnp.floating)
    )

  def leaves(self, params: Any) -> list[_leaves.Leaf]:
    """What is decided about every leaf, in flattening order."""
    numbers = _matrices.dimension_numbers(self.weight_dimension_numbers, params)
    paths = [
        (_leaves.path_name(path), x)
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    for pattern, _ in self.rules:
      if paths and not any(re.search(pattern, path) for path, _ in paths):
        raise ValueError(
            f'The pattern {pattern!r} matches no leaf of the parameters; they'
            f' are {", ".join(path for path, _ in paths)}.'
        )
    return [
        self._leaf(path, x, n)
        for (path, x), n in zip(paths, numbers, strict=True)
    ]

  def _leaf(self, path: str, x: Any, numbers: Any) -> _leaves.Leaf:
    dense = lambda reason: _leaves.Leaf(path, x.shape, x.dtype, reason)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return dense(f'{x.dtype} is not a real floating type')
    if numbers is None:
      asked = self.weight_dimension_numbers is not None
      return dense('asked for' if asked else f'{len(x.shape)}-D, not a matrix')
    try:
      m = _matrices.Matrices.of(x.shape, numbers)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    compressor = self.compressor_of(path)
    rate = _compression_rate(compressor, m.k, m.a, m.b)
    if rate <= self.min_compression_rate:
      return dense(f'would shrink only {rate:.2f}x')
    stack = f'{m.k} x ' if m.k > 1 else ''
    return _leaves.Leaf(
        path, x.shape, x.dtype, f'{stack}{m.a} x {m.b}', m, compressor
    )

  def compressor_of(self, path: str) -> base.Compressor:
    """The method of the matrix with this path."""
    for pattern, compressor in self.rules:
      if re.search(pattern, path):
        return compressor
    raise ValueError(
        f'No pattern matches the matrix {path!r}: end the list of compressors'
        " with ('', gl.GreedyLore(rank=32)) or ('', gl.Dense()) for the rest."
    )

  def init(self, leaf: _leaves.Leaf) -> tuple[Any, Any]:
    """This worker's error and the memory of one leaf, before the first step."""
    nothing = optax.MaskedNode()
    if leaf.matrices is None or leaf.compressor is None:
      return nothing, nothing
    m, dtype = leaf.matrices, _compute_dtype(leaf.dtype)
    memory = leaf.compressor.init(m.k, m.a, m.b, dtype)
    if not self.error_feedback:
      return nothing, memory
    shape = (1, *leaf.shape)
    if self.error_feedback == 'ef21':
      tracked = Tracked(memory, jnp.zeros(leaf.shape, dtype))
      return jnp.zeros(shape, dtype), tracked
    return jnp.zeros(shape, self.error_dtype or leaf.dtype), memory

  def fed(self, leaf: _leaves.Leaf, g: jax.Array, error: Any) -> jax.Array:
    """H = G + E, what is to be sent; error feedback is here and in `fed_back`.

    Under EF21 the error is E_i = -D_i, where D_i is what the others know of
    worker i: so H_i = G_i - D_i.
    """
    if leaf.matrices is None:
      return g
    h = g.astype(_compute_dtype(g.dtype))
    if not self.error_feedback:
      return h
    # In the error's shape: XLA can then write the next one where this one lies.
    return (h[None] + error.astype(h.dtype))[0]

  def fed_back(
      self, g: jax.Array, h: jax.Array, error: Any, memory: Any,
      output: jax.Array, sent: Any, remembered: Any, finite: jax.Array,
  ) -> tuple[jax.Array, Any, Any]:  # fmt: skip
    """(update, error, memory) after a step, the same for every method.

    What was not sent is kept. Under EF21 D = mean_i D_i is the update. Of a
    step that is not `finite`, nothing is kept and the update is NaN.
    """
    if sent is None:
      new = output.astype(g.dtype), error, remembered
    elif self.error_feedback == 'ef21':
      d = memory.mean + output
      new = d.astype(g.dtype), error - sent[None], Tracked(remembered, d)
    else:
      new = output.astype(g.dtype), h[None] - sent[None], remembered
      if g.dtype != output.dtype:  # The update's rounding.
        rounding = output - new[0].astype(output.dtype)
        new = new[0], new[1] + rounding[None], remembered
    old = jnp.array(jnp.nan).astype(g.dtype), error, memory
    keep = lambda new, old: jnp.where(finite, new, old).astype(old.dtype)
    return jax.tree.map(lambda x, y: x if x is y else keep(x, y), new, old)

  def rounds(
      self, kind: str, leaf: _leaves.Leaf, num_workers: int
  ) -> Callable[..., _rounds.Rounds]:
    """One leaf's exchange as a generator function of (h, memory, key).

    It returns (output, sent, memory), the first two in the leaf's shape; `sent`
    is None where nobody asks for it.
    """
    matrices, compressor = leaf.matrices, leaf.compressor
    if matrices is None or compressor is None:
      return _dense_leaf
    method: Any = {
        _schedule.WARM_UP: base.dense,
        _schedule.REFRESH: getattr(compressor, 'refresh', None),
        _schedule.COMPRESS: compressor.compress,
    }[kind]
    in_integers = self._low_precision(kind) and not self._is_floating()

    def exchange(h, memory, key):
      own = method(matrices.split(h), memory, key)
      if in_integers:
        own = _rounds.as_integers(own, self.factor_dtype, num_workers)
      own = _linalg.as_h_lies(own, matrices.lie_transposed)
      output, sent, memory = yield from own
      sent = matrices.join(sent) if self.error_feedback else None
      return matrices.join(output), sent, memory

    return exchange

  def wire_dtype(self, kind: str, leaf: _leaves.Leaf) -> Any:
    """The dtype in which a leaf's real messages travel."""
    low = self._low_precision(kind) and leaf.matrices is not None
    return self.factor_dtype if low and self._is_floating() else leaf.dtype

  def _low_precision(self, kind: str) -> bool:
    return self.factor_dtype is not None and kind == _schedule.COMPRESS

  def _is_floating(self) -> bool:
    return jnp.issubdtype(self.factor_dtype, jnp.floating)


def remembered(memory: Any) -> Any:
  """The compressor's own memory."""
  return memory.memory if isinstance(memory, Tracked) else memory


def kind(schedule: _schedule.Schedule, phase: str, leaf: _leaves.Leaf) -> str:
  """What a leaf does in a phase: 'warm_up', 'refresh' or 'compress'."""
  interval = leaf.compressor.update_interval if leaf.compressor else None
  return schedule.kind(phase, interval)


@functools.cache
def _compression_rate(
    compressor: base.Compressor, k: int, a: int, b: int
) -> float:
  """Bytes of a dense step over those of a compressed one, from float32."""
  h = jax.ShapeDtypeStruct((k, a, b), jnp.float32)
  memory = jax.eval_shape(lambda: compressor.init(k, a, b, h.dtype))
  key = jax.eval_shape(lambda: jax.random.key(0))
  record = lambda generator: _transport.record(
      generator, h.dtype, 1, 1, False, h, memory, key
  )
  bytes_of = lambda generator: sum(
      sent.size * jnp.dtype(sent.dtype).itemsize for sent in record(generator)
  )
  return bytes_of(base.dense) / max(bytes_of(compressor.compress), 1)


def _dense_leaf(g: jax.Array, memory: Any, key: jax.Array):
  """A leaf that is not compressed: the mean of its gradients."""
  del key
  mean, _ = yield g
  return mean, None, memory


def _compute_dtype(dtype: Any) -> Any:
  """The dtype of the linear algebra: float32 unless the gradient has more."""
  return jnp.promote_types(dtype, jnp.float32)
