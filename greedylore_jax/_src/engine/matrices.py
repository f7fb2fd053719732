"""How a leaf becomes a stack of matrices, [k, a, b]."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import optax

from greedylore_jax._src.types import Array, Shape

DimensionNumbers: Any = optax.contrib.MuonDimensionNumbers


@dataclasses.dataclass(frozen=True)
class Matrices:
  """One leaf seen as k matrices of a rows and b columns, a <= b.

  Everything that depends on orientation is decided here, once: the shorter
  side is always the rows, whichever way the layer multiplies.
  """

  shape: Shape
  axes: tuple[Shape, ...]
  """The leaf's axes that form the stack, the rows and the columns."""
  k: int
  a: int
  b: int

  @classmethod
  def of(cls, shape: Shape, numbers: DimensionNumbers) -> 'Matrices':
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

    def size(axes: Shape) -> int:
      return math.prod(shape[i] for i in axes)

    if size(rows) > size(columns):
      rows, columns = columns, rows
    axes = stack, rows, columns
    return cls(shape, axes, *map(size, axes))

  @classmethod
  def whole(cls, shape: Shape) -> 'Matrices':
    """A leaf of any shape as one matrix; a vector is one row."""
    axes = tuple(range(len(shape)))
    rows, columns = axes[: len(shape) > 1], axes[len(shape) > 1 :]
    if math.prod(shape[i] for i in rows) ** 2 > math.prod(shape):
      rows, columns = columns, rows
    a, b = (math.prod(shape[i] for i in x) for x in (rows, columns))
    return cls(shape, ((), rows, columns), 1, a, b)

  @property
  def order(self) -> Shape:
    """The leaf's axes in the order in which it is split."""
    return sum(self.axes, ())

  @property
  def is_column_major(self) -> bool:
    """Whether neighbors in memory belong to one column."""
    _, rows, columns = self.axes
    return max(rows, default=-1) > max(columns, default=-1)

  def keeps_sharding(self, spec: Sequence[Any]) -> bool:
    """Whether a leaf that is sharded like this can be split without moving it.

    Of axes that become one, only the first may be sharded.
    """
    sharded = {i for i, entry in enumerate(spec) if entry}
    merged = ([i for i in axes if self.shape[i] > 1][1:] for axes in self.axes)
    return not any(sharded.intersection(axes) for axes in merged)

  def stacked(self, count: int) -> 'Matrices':
    """Those of so many leaves along a new first axis."""
    stack, rows, columns = (tuple(i + 1 for i in axes) for axes in self.axes)
    shape, axes = (count, *self.shape), ((0, *stack), rows, columns)
    return Matrices(shape, axes, count * self.k, self.a, self.b)

  def split(self, leaf: Array) -> Array:
    """The leaf as a stack of matrices, [*shape] -> [k, a, b]."""
    return leaf.transpose(self.order).reshape(self.k, self.a, self.b)

  def join(self, matrices: Array) -> Array:
    """The inverse of `split`, [k, a, b] -> [*shape]."""
    inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
    moved = tuple(self.shape[i] for i in self.order)
    return matrices.reshape(moved).transpose(inverse)


def _axes(shape: Shape, axes: Any) -> Shape:
  """Axes as non-negative numbers, checked against the shape."""
  axes = (axes,) if isinstance(axes, int) else tuple(axes)
  for axis in axes:
    if not -len(shape) <= axis < len(shape):
      raise ValueError(
        f'dimension numbers name axis {axis}, but the leaf has shape {shape}.'
      )
  return tuple(axis % len(shape) for axis in axes)
