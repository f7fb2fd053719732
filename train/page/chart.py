"""Line charts as inline SVG, in the colors of the page."""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import math
import statistics

from train.page.document import Html, element

# A chart is drawn at about its size on a page, so that letters keep theirs.
_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 18, 26, 40
_PLOT_WIDTH = _WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM
_COLORS = 10  # The classes s0, s1, ... of style.css.
_DASHES = None, '6 3', '2 2', '8 2 2 2'

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Look:
  """How a curve is drawn.

  Attributes:
    color: a number; further ones repeat the colors with other dashes. None is
      the color of the text.
    dash: a number, for a second distinction.
    dots: whether every point is marked and shows its values.
    faint: whether it is thin.
  """

  color: int | None = 0
  dash: int = 0
  dots: bool = False
  faint: bool = False

  @property
  def classes(self) -> str:
    """For the style."""
    color = 'ink' if self.color is None else f's{self.color % _COLORS}'
    return f'{color} faint' if self.faint else color

  @property
  def dasharray(self) -> str | None:
    """Its dashes."""
    turns = (self.color or 0) // _COLORS
    return _DASHES[(self.dash + turns) % len(_DASHES)]


@dataclasses.dataclass(frozen=True)
class Curve:
  """Points with a name and a look; values that are not finite are gaps."""

  name: str
  points: Points
  look: Look = Look()


def lines(
  curves: Sequence[Curve],
  *,
  x: str,
  y: str,
  within: tuple[float, float] | None = None,
  log_x: bool = False,
) -> Html:
  """A chart; `x` and `y` name the axes with their units.

  Without `within`, the vertical axis holds all finite values. The horizontal
  one begins at 0, unless it is logarithmic and leaves out what is not above 0.
  """
  kept = [
    [(a, b) for a, b in curve.points if a > 0 or not log_x] for curve in curves
  ]
  finite = [
    (a, b) for points in kept for a, b in points if math.isfinite(b)
  ] or [(1.0, 0.0)]
  lefts, heights = zip(*finite, strict=True)
  # With room for the dots at the ends.
  low = min(lefts) / 1.05 if log_x else 0.0
  across = _Axis(low, max(lefts) * (1.05 if log_x else 1.02), log_x)
  up = _Axis(*(within or _with_margin(min(heights), max(heights))))
  return element(
    'figure',
    element(
      'svg',
      _grid(across, up),
      element('text', y, x=0, y=12, class_='title'),
      element(
        'text',
        x,
        x=_LEFT + _PLOT_WIDTH / 2,
        y=_HEIGHT - 4,
        text_anchor='middle',
        class_='title',
      ),
      element(
        'svg',
        [
          _curve(curve, points, across, up)
          for curve, points in zip(curves, kept, strict=True)
        ],
        x=_LEFT,
        y=_TOP,
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
        overflow='hidden',
      ),
      viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
      role='img',
      aria_label=f'{y} against {x}',
    ),
  )


def legend(entries: Iterable[tuple[str, Look]]) -> Html:
  """Names with samples of their lines, each of them once."""

  def sample(look: Look) -> Html:
    dot = element('circle', cx=13, cy=5, r=3, class_=look.classes)
    line = element(
      'path', d='M0 5H26', class_=look.classes, stroke_dasharray=look.dasharray
    )
    return element('svg', line, dot if look.dots else None, viewBox='0 0 26 10')

  return element(
    'ul',
    [
      element('li', sample(look), name) for name, look in dict.fromkeys(entries)
    ],
    class_='legend',
  )


def focus(curves: Sequence[Sequence[float]]) -> tuple[float, float] | None:
  """The losses between which is drawn: the ends are what is compared.

  None if that is all of them.
  """
  finite = [[x for x in curve if math.isfinite(x)] for curve in curves]
  ends = [losses[-1] for losses in finite if losses]
  every = [loss for losses in finite for loss in losses]
  if len(every) < 2:
    return None
  *_, upper_quartile = statistics.quantiles(every, n=4)
  top = max(2 * max(ends) - min(ends), upper_quartile)
  margin = 0.05 * (top - min(every))
  return (min(every) - margin, top) if margin and top < max(every) else None


@dataclasses.dataclass(frozen=True)
class _Axis:
  low: float
  high: float
  is_log: bool = False

  def share(self, value: float) -> float:
    """Where a value is, between 0 and 1."""
    scale = math.log if self.is_log else float
    length = scale(self.high) - scale(self.low)
    return (scale(value) - scale(self.low)) / length if length else 0.5

  def ticks(self) -> list[float]:
    """Round numbers between its ends."""
    if self.is_log and self.high > 3 * self.low:
      powers = range(
        math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1
      )
      for factors in (1, 2, 5), (1, 3), (1,):
        found = [
          factor * 10.0**power
          for power, factor in itertools.product(powers, factors)
          if self.low <= factor * 10.0**power <= self.high
        ]
        if len(found) < 7:
          break
      return found
    length = self.high - self.low
    if not length:
      return [self.low]
    power = 10.0 ** math.floor(math.log10(length))
    step = next(x * power for x in (0.2, 0.5, 1, 2) if length / (x * power) < 6)
    first, last = math.ceil(self.low / step), math.floor(self.high / step)
    return [i * step for i in range(first, last + 1)]


def _with_margin(low: float, high: float) -> tuple[float, float]:
  margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
  return low - margin, high + margin


def _grid(across: _Axis, up: _Axis) -> list[Html]:
  """Lines at the ticks and their numbers."""
  found = []
  for value in up.ticks():
    y = _TOP + _PLOT_HEIGHT * (1 - up.share(value))
    ends = {'x1': _LEFT, 'x2': _WIDTH - _RIGHT, 'y1': f'{y:.1f}'}
    found += [
      element('line', **ends, y2=f'{y:.1f}', class_='grid'),
      element(
        'text', _number(value), x=_LEFT - 6, y=f'{y + 4:.1f}', text_anchor='end'
      ),
    ]
  for value in across.ticks():
    x = f'{_LEFT + _PLOT_WIDTH * across.share(value):.1f}'
    bottom = _TOP + _PLOT_HEIGHT
    found += [
      element('line', x1=x, x2=x, y1=_TOP, y2=bottom, class_='grid'),
      element('text', _number(value), x=x, y=bottom + 15, text_anchor='middle'),
    ]
  return found


def _curve(
  curve: Curve, points: Points, across: _Axis, up: _Axis
) -> list[Html]:
  """Its line, and its dots."""
  words, dots, draws = [], [], False
  for a, b in points:
    if not math.isfinite(b):
      draws = False
      continue
    x = f'{_PLOT_WIDTH * across.share(a):.1f}'
    y = f'{_PLOT_HEIGHT * (1 - up.share(b)):.1f}'
    words.append(f'{"L" if draws else "M"}{x} {y}')
    draws = True
    if curve.look.dots:
      values = element('title', f'{curve.name}: {_number(a)}, {b:.5g}')
      dots.append(
        element('circle', values, cx=x, cy=y, r=2.6, class_=curve.look.classes)
      )
  line = element(
    'path',
    element('title', curve.name),
    d=''.join(words),
    class_=curve.look.classes,
    stroke_dasharray=curve.look.dasharray,
  )
  return [line, *dots] if words else []


def _number(value: float) -> str:
  return f'{value:,.5g}' if abs(value) < 1e4 else f'{value:,.0f}'
