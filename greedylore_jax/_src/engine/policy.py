"""Which leaves are compressed, by which method, since when, in which precision.

A `Policy` is consulted once per trace and yields leaves, each of which then
acts by itself. The transformation executes them and the plan reads them, so the
prediction and what is sent cannot differ.
"""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
import functools
import re
from typing import Any, TypedDict, Unpack
import warnings

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.engine import dimension_numbers as numbers_lib
from greedylore_jax._src.engine import leaf as leaf_lib
from greedylore_jax._src.engine import schedule as schedule_lib
from greedylore_jax._src.engine.leaf import CompressedLeaf, FrozenLeaf, Leaf
from greedylore_jax._src.engine.matrices import DimensionNumbers, Matrices
from greedylore_jax._src.types import DType, Params
from greedylore_jax._src.wire import quantized
from greedylore_jax.compressors import compressor as compressor_lib
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.frozen import Frozen
from greedylore_jax.compressors.quantized import Quantize

TOO_SMALL = 'would shrink only'  # The beginning of a reason.
# A compressor state that is larger than this and also than so many times its
# leaf is a mistake.
_LARGE_STATE = 2**30
_TIMES_ITS_LEAF = 4

Compressors = Compressor | Sequence[tuple[str, Compressor]]
"""One method for all leaves, or an ordered list of (pattern of paths, method),
such as [('embed|head', GreedyLore(64, 20)), ('', PowerSGD(32))]. Patterns are
regular expressions that are searched for in paths such as 'blocks/0/query'; the
first match decides."""
WeightDimensionNumbers = (
  Params
  | Callable[[Params], Params]
  | Sequence[tuple[str, DimensionNumbers | None]]
  | None
)


class PolicyOptions(TypedDict, total=False):
  """Options of every transformation that compresses, and of `plan`.

  All are keyword arguments of `compress_gradients`, `greedylore` and `plan`.

  Attributes:
    start_step: dense steps before compression starts (default 0). More cost
      bytes early on and give the optimizer's moments a better start.
    error_feedback: True (the default) keeps what was not sent and adds it to
      the next gradient. False forgets it, so that the update is biased; only
      for ablations.
    error_decay: what the error is multiplied by before it is added to the next
      gradient, in [0, 1] (default 1). Lower forgets sooner what was not sent;
      papers that send few entries in rounds, where errors age by whole rounds,
      have 0.9 to 0.99.
    min_compression_rate: a matrix is compressed only if that sends fewer than
      1 / min_compression_rate of its bytes in a compressed step, as one of two
      workers sends them (default 1). 0 compresses every matrix.
    weight_dimension_numbers: which leaves are matrices. A tree of
      `optax.contrib.MuonDimensionNumbers` (a matrix; axes that they do not name
      are a stack of matrices) and None (dense) that covers the parameters, a
      prefix of such a tree, or a function from parameters to it. Or a list of
      (pattern of paths, numbers or None), where leaves without a match are
      decided by default. None, the default, decides all leaves by shape and
      name: 2-D leaves are matrices. Axes in front of them are a stack [layers,
      rows, columns] if it has fewer matrices than a matrix has rows.
      Convolution kernels are matrices, HWIO or OIHW. Biases and gains of norms
      are not. If several readings are left, as for a projection to heads
      [512, 8, 64], the leaf stays dense and `init` warns, with the numbers that
      would compress it. `print(plan(...))` shows the decision for each leaf.
    error_dtype: dtype of the stored errors. None, the default, is float32, or
      the parameter's dtype if that has more bits. A lower one saves memory and
      forgets what it rounds away.
    factor_dtype: dtype in which compressed leaves' messages are sent in
      compressed steps; None, the default, is the gradient's. The error keeps
      what a lower one rounds away, except for the rounding of a sum of floating
      numbers. XLA widens 16-bit all-reduces to float32 on CPU. float16
      overflows above 65,504; bfloat16 has float32's range. 'int8', 'int4' and
      'int2' send that many bits per number and a scale for each 64 of them, see
      `Quantized`. Their precision does not depend on the number of workers.
      They take two collectives per round. Gathered messages are sent unchanged.
    dense_dtype: dtype in which everything else is sent, of the same choice:
      dense steps, refreshes and dense leaves. None, the default, is the
      gradient's. What it rounds away stays in the error, too. With 'int8',
      'int4' and 'int2', dense leaves are sent as by `Quantize` and get an error
      as well. With a floating dtype they have none, and lose what is rounded.
    stagger: True refreshes at most one leaf per step rather than all together,
      so that no step sends more than a compressed one and one leaf (except for
      the first, which refreshes all). The method of each leaf is the same, at
      other steps. Needs at least as many steps in an `update_interval` as there
      are leaves, and one program per shape of leaf. Default False.
  """

  start_step: int
  error_feedback: bool
  error_decay: float
  min_compression_rate: float
  weight_dimension_numbers: WeightDimensionNumbers
  error_dtype: DType
  factor_dtype: DType
  dense_dtype: DType
  stagger: bool


@dataclasses.dataclass(frozen=True)
class Policy:
  """A method with its `PolicyOptions`, checked."""

  compressor: Compressors
  start_step: int = 0
  error_feedback: bool = True
  error_decay: float = 1.0
  min_compression_rate: float = 1.0
  weight_dimension_numbers: Any = None
  error_dtype: DType = None
  factor_dtype: DType = None
  dense_dtype: DType = None
  stagger: bool = False

  @classmethod
  def of(
    cls, compressor: Compressors, **options: Unpack[PolicyOptions]
  ) -> 'Policy':
    """A policy of these options, with an error for each unknown name."""
    known = [*PolicyOptions.__annotations__]
    named: dict[str, Any] = {**options}
    # optax.inject_hyperparams passes them on as one argument of that name.
    if isinstance(named.get('options'), dict):
      named |= named.pop('options')
    for name in named:
      if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else '.'
        raise TypeError(
          f'There is no option {name!r}, only {", ".join(known)}{hint}'
        )
    return cls(compressor, **named)

  def __post_init__(self) -> None:
    for pattern, compressor in self.rules:
      _check_pattern(pattern)
      compressor_lib.check(compressor)
    schedule_lib.check_nested(c.update_interval for _, c in self.rules)
    checks.check_integer('start_step', self.start_step, at_least=0)
    checks.check_bool('error_feedback', self.error_feedback)
    checks.check_bool('stagger', self.stagger)
    checks.check_share('error_decay', self.error_decay, or_zero=True)
    if self.error_decay != 1 and not self.error_feedback:
      raise ValueError(
        'error_decay is a factor of the error, which error_feedback=False does'
        f' not keep, got error_decay={self.error_decay!r}.'
      )
    checks.check_number('min_compression_rate', self.min_compression_rate)
    if self.min_compression_rate < 0:
      raise ValueError(
        'min_compression_rate must not be negative, got'
        f' min_compression_rate={self.min_compression_rate!r}.'
      )
    checks.check_dtype('error_dtype', self.error_dtype, checks.FLOATING)
    known = 'int8', 'int4', 'int2', *checks.FLOATING
    checks.check_dtype('factor_dtype', self.factor_dtype, known)
    checks.check_dtype('dense_dtype', self.dense_dtype, known)

  @functools.cached_property
  def rules(self) -> list[tuple[str, Compressor]]:
    """Ordered (pattern of paths, compressor); the first match decides."""
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

  def schedule(self, leaves: Sequence[Leaf]) -> schedule_lib.Schedule:
    """The phases of the steps of these leaves."""
    intervals = {
      i: leaf.update_interval
      for i, leaf in enumerate(leaves)
      if isinstance(leaf, CompressedLeaf)
    }
    refreshed = {i: n for i, n in intervals.items() if n}
    if not (self.stagger and refreshed):
      return schedule_lib.Schedule(self.start_step, intervals.values())
    shapes = leaf_lib.of_equal_shape((i, leaves[i]) for i in refreshed)
    return schedule_lib.Staggered(self.start_step, refreshed, shapes)

  def leaves(self, params: Params) -> list[Leaf]:
    """What is decided about every leaf, in flattening order."""
    readings = numbers_lib.readings(self.weight_dimension_numbers, params)
    paths = [
      (checks.path_name(path), x)
      for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    checks.check_patterns_match(
      'the list of compressors', [pattern for pattern, _ in self.rules], params
    )
    return [
      self._leaf(path, x, reading)
      for (path, x), reading in zip(paths, readings, strict=True)
    ]

  def _leaf(self, path: str, x: Any, reading: numbers_lib.Reading) -> Leaf:
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    dense = functools.partial(self._dense, path, shape, dtype)
    rule = self._rule(path)
    if isinstance(rule, Frozen):
      return FrozenLeaf(path, shape, dtype, 'frozen', None)
    if not jnp.issubdtype(dtype, jnp.floating):
      reason = f'{dtype} is not a real floating type'
      return Leaf(path, shape, dtype, reason, None)
    if 0 in shape:
      return Leaf(path, shape, dtype, 'empty', None)
    if isinstance(rule, Dense):
      return dense('requested')
    if reading.numbers is None:
      by_default = numbers_lib.why_dense(path, shape)
      return dense('requested' if reading.is_requested else by_default)
    try:
      m = Matrices.of(shape, reading.numbers)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None
    compressor = self.compressor_of(path)
    stack = f'{m.k} x ' if m.k > 1 else ''
    reason = f'matrices {stack}{m.a} x {m.b}'
    leaf = self._compressed(path, dtype, reason, m, compressor)
    _check_state_size(leaf)
    rate = _compression_rate(dataclasses.replace(leaf, path=''))
    if rate <= self.min_compression_rate:
      return dense(f'{TOO_SMALL} {rate:.2f}x')
    return leaf

  def _dense(self, path: str, shape: Any, dtype: DType, reason: str) -> Leaf:
    """A leaf that is sent dense, in few bits if that was asked for."""
    if leaf_lib.is_few_bits(self.dense_dtype):
      bits = quantized.bits_of(self.dense_dtype)
      why = f'dense in {bits} bits: {reason}'
      leaf = self._compressed(
        path, dtype, why, Matrices.whole(shape), Quantize(bits)
      )
      if _compression_rate(dataclasses.replace(leaf, path='')) > 1:
        return leaf
      return Leaf(path, shape, dtype, reason, None)
    return Leaf(path, shape, dtype, reason, self.dense_dtype)

  def _compressed(
    self,
    path: str,
    dtype: DType,
    reason: str,
    matrices: Matrices,
    compressor: Compressor,
  ) -> CompressedLeaf:
    """A leaf that is compressed, with the options of all."""
    return CompressedLeaf(
      path,
      matrices.shape,
      dtype,
      reason,
      self.dense_dtype,
      matrices,
      compressor,
      self.error_feedback,
      self.error_decay,
      self.error_dtype,
      self.factor_dtype,
    )

  def compressor_of(self, path: str) -> Compressor:
    """The method of the matrix with this path."""
    if compressor := self._rule(path):
      return compressor
    raise ValueError(
      f'No pattern matches the matrix {path!r}: end the list of compressors'
      " with ('', gl.GreedyLore(rank=32)) or ('', gl.Dense()) for the rest."
    )

  def _rule(self, path: str) -> Compressor | None:
    """The compressor of the first pattern that matches."""
    matching = (c for pattern, c in self.rules if re.search(pattern, path))
    return next(matching, None)


def check_compresses(leaves: Sequence[Leaf], *, is_part: bool = False) -> None:
  """Raises if nothing is compressed; warns of leaves that could be.

  Args:
    leaves: what is decided.
    is_part: whether there are others, so that some of these need not be.
  """
  small = [x for x in leaves if x.reason.startswith(TOO_SMALL) and not is_part]
  if small and not any(isinstance(leaf, CompressedLeaf) for leaf in leaves):
    largest = max(small, key=lambda x: x.size)
    raise ValueError(
      'Nothing would be compressed, as no matrix would shrink: the largest,'
      f' {largest.path!r} of shape {largest.shape}, {largest.reason}. Lower'
      ' the rank, the density or the number of entries that are kept, or use'
      ' gl.average_gradients for a dense run.'
    )
  hints = [
    f'({f"^{re.escape(x.path)}$"!r},'
    f' {numbers_lib.spelled(numbers_lib.suggested_dimension_numbers(x.shape))})'
    for x in leaves
    if x.reason.startswith(numbers_lib.AMBIGUOUS)
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


def _check_pattern(pattern: Any) -> None:
  """Raises unless this is a regular expression."""
  try:
    re.compile(pattern)
  except (re.error, TypeError) as error:
    raise ValueError(
      f'The pattern {pattern!r} in the list of compressors must be a regular'
      f' expression: {error}.'
    ) from None


def _check_state_size(leaf: CompressedLeaf) -> None:
  """Raises if the compressor would keep absurdly much for a leaf."""
  arrays = jax.tree.leaves(leaf.state_shapes()[1])
  kept = sum(x.size * x.dtype.itemsize for x in arrays)
  if kept > max(_LARGE_STATE, _TIMES_ITS_LEAF * leaf.dense_bytes):
    raise ValueError(
      f'{leaf.compressor} would keep {kept / 1e9:.3g} GB for {leaf.path!r}, a'
      f' leaf of {leaf.dense_bytes / 1e9:.3g} GB and shape {leaf.shape}: give'
      ' it another method in the list of compressors, such as'
      f" ('^{leaf.path}$', gl.PowerSGD(8))."
    )


@functools.cache
def _compression_rate(leaf: CompressedLeaf) -> float:
  """Bytes of a dense step over those of a compressed one."""
  sent = leaf.messages('compress')
  return leaf.dense_bytes / max(sum(message.bytes for message in sent), 1)
