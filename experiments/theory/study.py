"""What a theory says, what was measured, and whether the two agree."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

# Passes on the items of a long loop and shows how far it is.
Track = Callable[[Sequence[Any]], Iterable[Any]]


class Claim(NamedTuple):
  """One line of a table."""

  what: str
  source: str
  """The proposition or equation."""
  theory: str
  measured: str
  holds: bool


def verdicts(claims: Iterable[Claim]) -> str:
  """The claims in Markdown."""
  return table(
    ['what', 'by', 'theory', 'measured', 'agrees'],
    [[*x[:4], 'yes' if x.holds else '**no**'] for x in claims],
  )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table in Markdown."""
  lines = [columns, ['---'] * len(columns), *rows]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def interval(mean: float, margin: float, digits: int = 3) -> str:
  """A mean and half of its confidence interval, as people write it."""
  return f'{mean:.{digits}f} ± {margin:.{digits}f}'
