"""Which leaves are matrices, and how such a leaf becomes a stack [k, a, b]."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax
import optax

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
  def of(
      cls, shape: tuple[int, ...], numbers: DimensionNumbers
  ) -> 'Matrices':
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


def default_dimension_numbers(
    shape: tuple[int, ...],
) -> DimensionNumbers | None:
  """What a leaf is taken for when nobody said: None is 'not a matrix'."""
  match len(shape):
    case 2:
      return DimensionNumbers(0, 1)
    case 3:  # Layers stacked for a scan.
      return DimensionNumbers(1, 2)
    case 4:  # A convolution, HWIO.
      return DimensionNumbers((0, 1, 2), 3)
    case _:
      return None


def dimension_numbers(given: Any, params: Any) -> list[DimensionNumbers | None]:
  """The dimension numbers of every leaf of `params`, in flattening order."""
  if given is None:
    return [default_dimension_numbers(x.shape) for x in jax.tree.leaves(params)]
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
