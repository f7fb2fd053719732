"""Which leaves are matrices, and how such a leaf becomes a stack [k, a, b]."""

from collections.abc import Sequence
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks as _checks

DimensionNumbers: Any = optax.contrib.MuonDimensionNumbers


@dataclasses.dataclass(frozen=True)
class Matrices:
  """One leaf seen as k matrices of a rows and b columns, a <= b.

  Everything that depends on orientation is decided here, once: the shorter
  side is always the rows, whichever way the layer multiplies.
  """

  shape: tuple[int, ...]
  axes: tuple[tuple[int, ...], ...]
  """Those of the leaf that make up the stack, the rows and the columns."""
  k: int
  a: int
  b: int

  @classmethod
  def of(cls, shape: tuple[int, ...], numbers: DimensionNumbers) -> 'Matrices':
    """Reads dimension numbers; axes that they leave out are the stack."""
    rows = _axes(shape, numbers.reduction_axis)
    columns = _axes(shape, numbers.output_axis)
    named = rows + columns
    if len(set(named)) < len(named) or not rows or not columns:
      raise ValueError(
        'reduction_axis and output_axis must name at least one axis each and'
        f' none twice, got {numbers} for a leaf of shape {shape}.'
      )
    stack = tuple(i for i in range(len(shape)) if i not in named)
    size = lambda axes: math.prod(shape[i] for i in axes)
    if size(rows) > size(columns):
      rows, columns = columns, rows
    axes = stack, rows, columns
    return cls(shape, axes, *map(size, axes))

  @property
  def order(self) -> tuple[int, ...]:
    """The leaf's axes as they stand when it is split."""
    return sum(self.axes, ())

  @property
  def lie_transposed(self) -> bool:
    """Whether numbers next to each other in memory are of one column."""
    _, rows, columns = self.axes
    return max(rows) > max(columns)

  def stays_spread(self, spec: Sequence[Any]) -> bool:
    """Whether a leaf that lies spread so can be split where it lies.

    Of axes that become one, only the first may be spread.
    """
    spread = {i for i, entry in enumerate(spec) if entry}
    merged = ([i for i in axes if self.shape[i] > 1][1:] for axes in self.axes)
    return not any(spread.intersection(axes) for axes in merged)

  def split(self, leaf: jax.Array) -> jax.Array:
    """The leaf as a stack of matrices, [*shape] -> [k, a, b]."""
    return leaf.transpose(self.order).reshape(self.k, self.a, self.b)

  def join(self, matrices: jax.Array) -> jax.Array:
    """The inverse of `split`, [k, a, b] -> [*shape]."""
    inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
    moved = tuple(self.shape[i] for i in self.order)
    return matrices.reshape(moved).transpose(inverse)


def _axes(shape: tuple[int, ...], axes: Any) -> tuple[int, ...]:
  """Axes as non-negative numbers, checked against the shape."""
  axes = (axes,) if isinstance(axes, int) else tuple(axes)
  for axis in axes:
    if not -len(shape) <= axis < len(shape):
      raise ValueError(
        f'dimension numbers name axis {axis}, but the leaf has shape {shape}.'
      )
  return tuple(axis % len(shape) for axis in axes)


# Convolution kernels have equal sides, and none is larger than this.
_LARGEST_KERNEL = 32
# Gains and offsets, also of stacked layers: blocks/norm_1/weight, head/bias.
_GAIN_OR_OFFSET = re.compile(
  r'(^|/)(bias|biases|scale|gains?|beta|gamma)$'
  r'|(norm|(^|/)ln)(_?\d+)?(/[^/]+)?$'
)


def default_dimension_numbers(
  path: str, shape: tuple[int, ...]
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


def suggested_dimension_numbers(shape: tuple[int, ...]) -> DimensionNumbers:
  """The split into stack, rows and columns that gives the squarest matrices.

  Only for leaves that `default_dimension_numbers` leaves dense, as a hint.
  """
  n = len(shape)

  def number(axes):
    return axes[0] if len(axes) == 1 else axes

  candidates = [
    DimensionNumbers(number(tuple(range(i, j))), number(tuple(range(j, n))))
    for i in range(n - 1)
    for j in range(i + 1, n)
  ]

  def squareness(numbers):
    m = Matrices.of(shape, numbers)
    return m.a, -m.b

  return max(candidates, key=squareness)


def is_gain_or_offset(path: str) -> bool:
  """Whether a leaf's name says that it is a bias or the gains of a norm."""
  return bool(_GAIN_OR_OFFSET.search(path.lower()))


def _by_patterns(
  rules: Sequence[Any], params: Any
) -> list[DimensionNumbers | None]:
  """The numbers of the first pattern in a path; the default where none is."""
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
  leaves = [
    (_checks.path_name(path), jnp.shape(x))
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  ]
  for pattern, _ in rules:
    if leaves and not any(re.search(pattern, path) for path, _ in leaves):
      raise ValueError(
        f'The pattern {pattern!r} in weight_dimension_numbers matches no leaf'
        f' of the parameters; they are {", ".join(x for x, _ in leaves)}.'
      )

  def numbers(path, shape):
    for pattern, found in rules:
      if re.search(pattern, path):
        return found
    return default_dimension_numbers(path, shape)

  return [numbers(*leaf) for leaf in leaves]


AMBIGUOUS = 'ambiguous shape'


def why_dense(path: str, shape: tuple[int, ...]) -> str:
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


def _is_kernel(sides: tuple[int, ...], channels: int) -> bool:
  """Whether these look like the sides of a convolution kernel.

  Large even ones are those of image patches, with few input channels. With more
  channels, [8, 8, 256, 512], they are rather layers and experts.
  """
  side = sides[0]
  usual = side < 8 or side % 2 or channels <= 4
  return len(set(sides)) == 1 and side <= _LARGEST_KERNEL and bool(usual)


def dimension_numbers(given: Any, params: Any) -> list[DimensionNumbers | None]:
  """The dimension numbers of every leaf of `params`, in flattening order."""
  if given is None:
    return [
      default_dimension_numbers(_checks.path_name(path), jnp.shape(x))
      for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
  if isinstance(given, list | tuple) and not isinstance(
    given, DimensionNumbers
  ):
    return _by_patterns(given, params)
  tree = given(params) if callable(given) else given
  is_leaf = lambda x: x is None or isinstance(x, DimensionNumbers)
  try:
    tree = jax.tree.broadcast(tree, params, is_leaf=is_leaf)
  except ValueError as error:
    raise ValueError(
      'weight_dimension_numbers must cover every leaf of the parameters: a'
      ' tree of their structure (or a prefix of it) whose leaves are'
      ' optax.contrib.MuonDimensionNumbers for matrices and None for what'
      f' stays dense. It does not fit: {error}'
    ) from None
  numbers = jax.tree.leaves(tree, is_leaf=is_leaf)
  for entry in numbers:
    if not is_leaf(entry):
      raise TypeError(
        'weight_dimension_numbers must hold optax.contrib.'
        f'MuonDimensionNumbers or None, got {entry!r}.'
      )
  return numbers
