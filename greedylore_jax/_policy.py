"""What holds for every method: which leaves, since when, with what precision.

A `Policy` is a compressor plus these decisions. The transformation executes it
and the plan reads it, so that what is predicted and what is sent cannot differ.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax import _matrices
from greedylore_jax import _rounds
from greedylore_jax.compressors import base

WARM_UP, REFRESH, COMPRESS = 'warm_up', 'refresh', 'compress'
DENSE = 'dense'  # The only phase where no leaf is compressed.


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One leaf and what was decided about it; `matrices` None is dense."""

  path: str
  shape: tuple[int, ...]
  dtype: Any
  matrices: _matrices.Matrices | None
  reason: str

  @property
  def size(self) -> int:
    """How many numbers it has."""
    return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Policy:
  """The settings of `compress_gradients`, checked; see there for each."""

  compressor: base.Compressor
  start_step: int = 0
  error_feedback: bool = True
  min_compression_rate: float = 1.0
  weight_dimension_numbers: Any = None
  error_dtype: Any = None
  factor_dtype: Any = None

  def __post_init__(self):
    for method in ('init', 'compress'):
      if isinstance(self.compressor, type) or not callable(
          getattr(self.compressor, method, None)
      ):
        raise TypeError(
            'compressor must be an instance such as gl.GreedyLore(rank=32), got'
            f' {self.compressor!r}.'
        )
    if getattr(self.compressor, '__hash__', None) is None:
      raise TypeError(
          'compressor must be hashable: make it a frozen dataclass, got'
          f' {self.compressor!r}.'
      )
    base.check_integer('start_step', self.start_step, at_least=0)
    if self.min_compression_rate < 0:
      raise ValueError(
          'min_compression_rate must not be negative, got'
          f' min_compression_rate={self.min_compression_rate!r}.'
      )
    for name in ('error_dtype', 'factor_dtype'):
      dtype = getattr(self, name)
      if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f'{name} must be a floating dtype, got {dtype!r}.')

  def phases(self, leaves: list[Leaf]) -> list[str]:
    """The kinds of step that can occur, in order."""
    if not any(leaf.matrices for leaf in leaves):
      return [DENSE]
    warm_up = [WARM_UP] if self.start_step else []
    refresh = [REFRESH] if self.compressor.update_interval else []
    return warm_up + refresh + [COMPRESS]

  def phase(self, count: jax.Array, phases: list[str]) -> jax.Array:
    """The index into `phases` of step `count`, counted from 0."""
    since = count - self.start_step
    index = jnp.full_like(count, len(phases) - 1)
    interval = self.compressor.update_interval
    if interval and REFRESH in phases:
      lands = since % interval == 0
      index = jnp.where(lands, phases.index(REFRESH), index)
    if WARM_UP in phases:
      index = jnp.where(since < 0, phases.index(WARM_UP), index)
    return index

  def leaves(self, params: Any) -> list[Leaf]:
    """What is decided about every leaf, in flattening order."""
    numbers = _matrices.dimension_numbers(self.weight_dimension_numbers, params)
    paths = jax.tree_util.tree_leaves_with_path(params)
    return [
        self._leaf(jax.tree_util.keystr(path, simple=True, separator='/'), x, n)
        for (path, x), n in zip(paths, numbers, strict=True)
    ]

  def _leaf(self, path: str, x: Any, numbers: Any) -> Leaf:
    dense = lambda reason: Leaf(path, x.shape, x.dtype, None, reason)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return dense(f'{x.dtype} is not a real floating type')
    if numbers is None:
      asked = self.weight_dimension_numbers is not None
      return dense('asked for' if asked else f'{len(x.shape)}-D, not a matrix')
    try:
      matrices = _matrices.Matrices.of(x.shape, numbers)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    rate = _compression_rate(
        self.compressor, matrices.k, matrices.a, matrices.b
    )
    if rate <= self.min_compression_rate:
      return dense(f'would shrink only {rate:.2f}x')
    stack = f'{matrices.k} x ' if matrices.k > 1 else ''
    return Leaf(
        path, x.shape, x.dtype, matrices, f'{stack}{matrices.a} x {matrices.b}'
    )

  def init(self, leaf: Leaf) -> tuple[Any, Any]:
    """This worker's error and the memory of one leaf, before the first step."""
    nothing = optax.MaskedNode()
    if leaf.matrices is None:
      return nothing, nothing
    m = leaf.matrices
    memory = self.compressor.init(m.k, m.a, m.b, _compute_dtype(leaf.dtype))
    if not self.error_feedback:
      return nothing, memory
    return jnp.zeros((1, *leaf.shape), self.error_dtype or leaf.dtype), memory

  def rounds(self, phase: str, leaf: Leaf) -> Callable[..., _rounds.Rounds]:
    """One leaf's step as a generator function of (g, error, memory, key).

    It returns (update, error, memory). Error feedback is here and nowhere
    else, the same for every method: H = G + E, and what is not sent is kept.
    """
    matrices = leaf.matrices
    if matrices is None:
      return _dense_leaf
    method: Any = {
        WARM_UP: base.dense,
        REFRESH: getattr(self.compressor, 'refresh', None),
        COMPRESS: self.compressor.compress,
    }[phase]

    def step(g, error, memory, key):
      h = g.astype(_compute_dtype(g.dtype))
      if self.error_feedback:
        h += error[0].astype(h.dtype)
      output, sent, memory = yield from method(matrices.split(h), memory, key)
      output = matrices.join(output)
      update = output.astype(g.dtype)
      if self.error_feedback:
        kept = h - matrices.join(sent)
        if update.dtype != output.dtype:
          kept += output - update.astype(output.dtype)  # The update's rounding.
        error = kept[None].astype(error.dtype)
      return update, error, memory

    return step

  def wire_dtype(self, phase: str, leaf: Leaf) -> Any:
    """The dtype in which a leaf's messages travel."""
    low = phase == COMPRESS and leaf.matrices is not None
    return self.factor_dtype if low and self.factor_dtype else leaf.dtype


@functools.cache
def _compression_rate(
    compressor: base.Compressor, k: int, a: int, b: int
) -> float:
  """Bytes of a dense step over those of a compressed one, from float32."""
  h = jax.ShapeDtypeStruct((k, a, b), jnp.float32)
  memory = jax.eval_shape(lambda: compressor.init(k, a, b, h.dtype))
  key = jax.eval_shape(lambda: jax.random.key(0))
  bytes_of = lambda generator: sum(
      m.size * m.dtype.itemsize
      for m in _rounds.record_messages(generator, None, h, memory, key)
  )
  return bytes_of(base.dense) / max(bytes_of(compressor.compress), 1)


def _dense_leaf(g: jax.Array, error: Any, memory: Any, key: Any):
  """A leaf that is not compressed: the mean of its gradients."""
  del key
  mean, _ = yield g
  return mean, error, memory


def _compute_dtype(dtype: Any) -> Any:
  """The dtype of the linear algebra: float32 unless the gradient has more."""
  return jnp.promote_types(dtype, jnp.float32)
