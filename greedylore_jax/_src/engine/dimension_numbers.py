"""Which leaves are matrices, and which of their axes are rows and columns."""

from collections.abc import Sequence
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.engine.matrices import DimensionNumbers, Matrices
from greedylore_jax._src.types import Params, Shape

# Convolution kernels have equal sides, and none is larger than this.
_LARGEST_KERNEL = 32
# Gains and offsets, also of stacked layers: blocks/norm_1/weight, head/bias.
_GAIN_OR_OFFSET = re.compile(
  r'(^|/)(bias|biases|scale|gains?|beta|gamma)$'
  r'|(norm|(^|/)ln)(_?\d+)?(/[^/]+)?$'
)


def default_dimension_numbers(
  path: str, shape: Shape
) -> DimensionNumbers | None:
  """The axes that are rows and columns, judged by name and shape.

  None if the leaf is not a matrix, or if the shape alone does not say which
  axes belong together. A wrong guess would be worse than a dense leaf.
  """
  if len(shape) < 2 or is_gain_or_offset(path):
    return None
  if len(shape) == 2:
    return DimensionNumbers(0, 1)
  leading, trailing = shape[:-2], shape[2:]
  axes = tuple(range(len(shape)))
  if len(shape) > 3:
    if _is_kernel(leading, shape[-2]):  # HWIO or DHWIO, as in Flax.
      return DimensionNumbers(axes[:-1], axes[-1])
    if _is_kernel(trailing, shape[1]):  # OIHW or OIDHW, as in Equinox.
      return DimensionNumbers(axes[1:], axes[0])
  # Layers or experts, [L, m, n] or [L, E, m, n]: fewer of them than rows. What
  # has more is rather a projection to heads, [D, H, K].
  if math.prod(leading) <= min(shape[-2:]):
    return DimensionNumbers(axes[-2], axes[-1])
  return None


def suggested_dimension_numbers(shape: Shape) -> DimensionNumbers:
  """The split into stack, rows and columns that gives the squarest matrices.

  Only for leaves that `default_dimension_numbers` leaves dense, as a hint.
  """
  n = len(shape)

  def axes(start: int, end: int) -> int | Shape:
    return start if end == start + 1 else tuple(range(start, end))

  candidates = [
    DimensionNumbers(axes(i, j), axes(j, n))
    for i in range(n - 1)
    for j in range(i + 1, n)
  ]

  def squareness(numbers: DimensionNumbers) -> tuple[int, int]:
    m = Matrices.of(shape, numbers)
    return m.a, -m.b

  return max(candidates, key=squareness)


def is_gain_or_offset(path: str) -> bool:
  """Whether a leaf's name says that it is a bias or the gains of a norm."""
  return bool(_GAIN_OR_OFFSET.search(path.lower()))


class Reading(NamedTuple):
  """How a leaf is read as matrices; None is not at all."""

  numbers: DimensionNumbers | None
  is_requested: bool
  """By the user, rather than decided by name and shape."""


def _by_patterns(
  rules: Sequence[Any], leaves: Sequence[tuple[str, Shape]], params: Params
) -> list[Reading]:
  """The numbers of the first pattern in a path; the default without a match."""
  for rule in rules:
    if not (
      isinstance(rule, tuple)
      and len(rule) == 2
      and isinstance(rule[0], str)
      and isinstance(rule[1], DimensionNumbers | None)
    ):
      raise TypeError(
        'A list in weight_dimension_numbers must hold pairs of a pattern of'
        ' paths and optax.contrib.MuonDimensionNumbers or None, got'
        f' {rule!r}.'
      )
  checks.check_patterns_match(
    'weight_dimension_numbers', [pattern for pattern, _ in rules], params
  )

  def reading(path: str, shape: Shape) -> Reading:
    for pattern, found in rules:
      if re.search(pattern, path):
        return Reading(found, True)
    return _default(path, shape)

  return [reading(*leaf) for leaf in leaves]


def _default(path: str, shape: Shape) -> Reading:
  return Reading(default_dimension_numbers(path, shape), False)


AMBIGUOUS = 'ambiguous shape'


def why_dense(path: str, shape: Shape) -> str:
  """Why a leaf without dimension numbers is not compressed by default."""
  if len(shape) < 2:
    return f'{len(shape)}-D, not a matrix'
  if is_gain_or_offset(path):
    return 'a bias or gains, by its name'
  return f'{AMBIGUOUS}: {spelled(suggested_dimension_numbers(shape))}?'


def spelled(numbers: DimensionNumbers) -> str:
  """Dimension numbers as a user writes them."""
  rows, columns = numbers.reduction_axis, numbers.output_axis
  return f'MuonDimensionNumbers({rows}, {columns})'


def _is_kernel(sides: Shape, channels: int) -> bool:
  """Whether these look like the sides of a convolution kernel.

  Large even ones are those of image patches, with few input channels. With more
  channels, [8, 8, 256, 512], they are rather layers and experts.
  """
  side = sides[0]
  usual = side < 8 or side % 2 or channels <= 4
  return len(set(sides)) == 1 and side <= _LARGEST_KERNEL and bool(usual)


def readings(given: Any, params: Params) -> list[Reading]:
  """How every leaf of `params` is read, in flattening order.

  Args:
    given: the option `weight_dimension_numbers`.
    params: the parameters.
  """
  leaves = [
    (checks.path_name(path), jnp.shape(x))
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  ]
  if given is None:
    return [_default(*leaf) for leaf in leaves]
  is_numbers = isinstance(given, DimensionNumbers)
  if isinstance(given, list | tuple) and not is_numbers:
    return _by_patterns(given, leaves, params)
  tree = given(params) if callable(given) else given
  is_leaf: Any = lambda x: x is None or isinstance(x, DimensionNumbers)
  try:
    tree = jax.tree.broadcast(tree, params, is_leaf=is_leaf)
  except ValueError as error:
    raise ValueError(
      'weight_dimension_numbers must cover every leaf of the parameters: a'
      ' tree of their structure (or a prefix of it) whose leaves are'
      ' optax.contrib.MuonDimensionNumbers for matrices and None for what'
      f' stays dense. It does not fit: {error}'
    ) from None
  numbers: list[Any] = jax.tree.leaves(tree, is_leaf=is_leaf)
  for entry in numbers:
    if not is_leaf(entry):
      raise TypeError(
        'weight_dimension_numbers must hold optax.contrib.'
        f'MuonDimensionNumbers or None, got {entry!r}.'
      )
  return [Reading(entry, True) for entry in numbers]
