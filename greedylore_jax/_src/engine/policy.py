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
import warnings

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks as _checks
from greedylore_jax._src.engine import feedback as _feedback
from greedylore_jax._src.engine import leaf as _leaves
from greedylore_jax._src.engine import matrices as _matrices
from greedylore_jax._src.engine import schedule as _schedule
from greedylore_jax._src.wire import linalg as _linalg
from greedylore_jax._src.wire import rounds as _rounds
from greedylore_jax._src.wire import transport as _transport
from greedylore_jax.compressors import compressor as base
from greedylore_jax.compressors import dense as _dense
from greedylore_jax.compressors import frozen

TOO_SMALL = 'would shrink only'  # The beginning of a reason.
# A compressor state that is both larger than this and than so many times its
# leaf is a mistake.
_LARGE_STATE = 2**30
_TIMES_ITS_LEAF = 4

Compressors = base.Compressor | Sequence[tuple[str, base.Compressor]]


@dataclasses.dataclass(frozen=True)
class Policy:
  """The settings of `compress_gradients`, checked; see there for each."""

  compressor: Compressors
  start_step: int = 0
  error_feedback: _feedback.Kind = True
  min_compression_rate: float = 1.0
  weight_dimension_numbers: Any = None
  error_dtype: Any = None
  factor_dtype: Any = None
  stagger: bool = False
  share_decompositions: bool = False

  def __post_init__(self):
    for pattern, compressor in self.rules:
      _check_pattern(pattern)
      base.check_compressor(compressor)
    _checks.check_integer('start_step', self.start_step, at_least=0)
    _checks.check_number('min_compression_rate', self.min_compression_rate)
    if self.min_compression_rate < 0:
      raise ValueError(
        'min_compression_rate must not be negative, got'
        f' min_compression_rate={self.min_compression_rate!r}.'
      )
    known = 'int8', 'int16', *_checks.FLOATING
    _checks.check_dtype('factor_dtype', self.factor_dtype, known)
    _feedback.ErrorFeedback(self.error_feedback, self.error_dtype)

  @property
  def feedback(self) -> _feedback.ErrorFeedback:
    """What becomes of the rest."""
    return _feedback.ErrorFeedback(self.error_feedback, self.error_dtype)

  @property
  def rules(self) -> list[tuple[str, base.Compressor]]:
    """Ordered (pattern of paths, compressor); the first match holds."""
    is_transformation = isinstance(
      self.compressor, optax.GradientTransformation
    )
    if is_transformation or not isinstance(self.compressor, list | tuple):
      return [('', self.compressor)]  # type: ignore[list-item]
    for rule in self.compressor:
      if not (isinstance(rule, tuple) and len(rule) == 2):
        raise TypeError(
          "A list of compressors must hold pairs such as ('embed|head',"
          f' gl.TopK(0.05)), got {rule!r} in it.'
        )
    return list(self.compressor)

  def schedule(self, leaves: list[_leaves.Leaf]) -> _schedule.Schedule:
    """The kinds of step that can occur, and when."""
    intervals = {
      i: leaf.compressor.update_interval
      for i, leaf in enumerate(leaves)
      if leaf.compressor
    }
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
      (_checks.path_name(path), x)
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
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    dense = functools.partial(_leaves.Leaf, path, shape, dtype)
    if isinstance(self._rule(path), frozen.Frozen):
      return dense('frozen', frozen=True)
    if not jnp.issubdtype(dtype, jnp.floating):
      return dense(f'{dtype} is not a real floating type')
    if 0 in shape:
      return dense('nothing in it')
    if numbers is None:
      asked = self.weight_dimension_numbers is not None
      return dense('asked for' if asked else _matrices.why_dense(path, shape))
    try:
      m = _matrices.Matrices.of(shape, numbers)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    compressor = self.compressor_of(path)
    stack = f'{m.k} x ' if m.k > 1 else ''
    leaf = dense(f'{stack}{m.a} x {m.b}', m, compressor)
    _check_state_size(leaf, self.state_shapes(leaf)[1])
    rate = _compression_rate(
      Policy(compressor, factor_dtype=self.factor_dtype),
      dataclasses.replace(leaf, path=''),
    )
    if rate <= self.min_compression_rate:
      is_dense = isinstance(compressor, _dense.Dense)
      reason = 'asked for' if is_dense else f'{TOO_SMALL} {rate:.2f}x'
      return dense(reason)
    return leaf

  def compressor_of(self, path: str) -> base.Compressor:
    """The method of the matrix with this path."""
    if compressor := self._rule(path):
      return compressor
    raise ValueError(
      f'No pattern matches the matrix {path!r}: end the list of compressors'
      " with ('', gl.GreedyLore(rank=32)) or ('', gl.Dense()) for the rest."
    )

  def _rule(self, path: str) -> base.Compressor | None:
    """The first whose pattern matches."""
    matching = (c for pattern, c in self.rules if re.search(pattern, path))
    return next(matching, None)

  def check_compresses(self, leaves: list[_leaves.Leaf]) -> None:
    """Raises if nothing is compressed; warns of leaves that could be."""
    small = [x for x in leaves if x.reason.startswith(TOO_SMALL)]
    if small and not any(leaf.matrices for leaf in leaves):
      largest = max(small, key=lambda x: x.size)
      raise ValueError(
        'Nothing would be compressed, as no matrix would shrink: the largest,'
        f' {largest.path!r} of shape {largest.shape}, {largest.reason}. Lower'
        ' the rank, or use gl.average_gradients for a dense run.'
      )
    hints = [
      f'({f"^{re.escape(x.path)}$"!r},'
      f' {_matrices.spelled(_matrices.suggested_dimension_numbers(x.shape))})'
      for x in leaves
      if x.reason.startswith(_matrices.AMBIGUOUS)
    ]
    if hints:
      warnings.warn(
        'These leaves stay dense because their shapes do not say which axes'
        ' are rows and columns. To compress them, pass for example'
        f' weight_dimension_numbers=[{", ".join(hints)}], with'
        ' MuonDimensionNumbers from optax.contrib; None in the place of'
        ' numbers keeps a leaf dense without this warning.',
        stacklevel=2,
      )

  def init(self, leaf: _leaves.Leaf) -> tuple[Any, Any]:
    """This worker's error and the memory of one leaf, before the first step."""
    return _init(self.feedback, leaf)

  def state_shapes(self, leaf: _leaves.Leaf) -> tuple[Any, Any]:
    """The shapes of what `init` returns."""
    return _state_shapes(self.feedback, dataclasses.replace(leaf, path=''))

  def rounds(
    self, kind: str, leaf: _leaves.Leaf, num_workers: int
  ) -> Callable[..., _rounds.Rounds]:
    """One leaf's exchange as a generator function of (h, memory, key).

    It returns (output, sent, memory), the first two in the leaf's shape; `sent`
    is None where nobody asks for it.
    """
    matrices, compressor = leaf.matrices, leaf.compressor
    if leaf.frozen:
      return frozen.Frozen().compress
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

  def messages(
    self, kind: str, leaf: _leaves.Leaf, num_workers: int = 1, devices: int = 1
  ) -> list[_transport.Sent]:
    """What one leaf sends in a kind of step, a message per round."""
    g = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    error, memory = self.state_shapes(leaf)
    h = jax.eval_shape(lambda *x: self.feedback.fed(leaf, *x), g, error)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return _transport.record(
      self.rounds(kind, leaf, num_workers),
      self.wire_dtype(kind, leaf),
      num_workers,
      devices,
      self.shares(devices),
      h,
      _feedback.remembered(memory),
      key,
    )

  def wire_dtype(self, kind: str, leaf: _leaves.Leaf) -> Any:
    """The dtype in which a leaf's real messages travel."""
    low = self._low_precision(kind) and leaf.matrices is not None
    return self.factor_dtype if low and self._is_floating() else leaf.dtype

  def _low_precision(self, kind: str) -> bool:
    return self.factor_dtype is not None and kind == _schedule.COMPRESS

  def _is_floating(self) -> bool:
    return jnp.issubdtype(self.factor_dtype, jnp.floating)


def _check_pattern(pattern: Any) -> None:
  """Raises unless this is a regular expression."""
  try:
    re.compile(pattern)
  except (re.error, TypeError) as error:
    raise ValueError(
      f'The pattern {pattern!r} in the list of compressors must be a regular'
      f' expression: {error}.'
    ) from None


def kind(schedule: _schedule.Schedule, phase: str, leaf: _leaves.Leaf) -> str:
  """What a leaf does in a phase: 'warm_up', 'refresh' or 'compress'."""
  interval = leaf.compressor.update_interval if leaf.compressor else None
  return schedule.kind(phase, interval)


def _init(
  feedback: _feedback.ErrorFeedback, leaf: _leaves.Leaf
) -> tuple[Any, Any]:
  if leaf.matrices is None or leaf.compressor is None:
    return optax.MaskedNode(), optax.MaskedNode()
  m, dtype = leaf.matrices, _feedback.compute_dtype(leaf.dtype)
  memory = leaf.compressor.init(m.k, m.a, m.b, dtype)
  return feedback.init(leaf, memory)


@functools.cache
def _state_shapes(
  feedback: _feedback.ErrorFeedback, leaf: _leaves.Leaf
) -> tuple[Any, Any]:
  return jax.eval_shape(lambda: _init(feedback, leaf))


def _check_state_size(leaf: _leaves.Leaf, compressor_state: Any) -> None:
  """Raises if the compressor would keep absurdly much for a leaf."""
  arrays = jax.tree.leaves(compressor_state)
  kept = sum(x.size * x.dtype.itemsize for x in arrays)
  size = leaf.size * leaf.dtype.itemsize
  if kept > max(_LARGE_STATE, _TIMES_ITS_LEAF * size):
    raise ValueError(
      f'{leaf.compressor} would keep {kept / 1e9:.3g} GB for {leaf.path!r}, a'
      f' leaf of {size / 1e9:.3g} GB and shape {leaf.shape}: give it another'
      ' method in the list of compressors, such as'
      f" ('^{leaf.path}$', gl.PowerSGD(8))."
    )


@functools.cache
def _compression_rate(policy: Policy, leaf: _leaves.Leaf) -> float:
  """Bytes of a dense step over those of a compressed one."""
  sent = policy.messages(_schedule.COMPRESS, leaf)
  whole = leaf.size * leaf.dtype.itemsize
  return whole / max(sum(message.bytes for message in sent), 1)


def _dense_leaf(g: jax.Array, memory: Any, key: jax.Array):
  """A leaf that is not compressed: the mean of its gradients."""
  del key
  mean, _ = yield g
  return mean, None, memory
