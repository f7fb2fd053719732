"""What a theory says, what was measured, and whether the two agree."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
from typing import Any, NamedTuple

import matplotlib.pyplot as plt

from train.study import tables

# Passes on the items of a long loop and shows the progress.
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
  return tables.table(
    ['what', 'by', 'theory', 'measured', 'agrees'],
    [[*x[:4], 'yes' if x.holds else '**no**'] for x in claims],
  )


@contextlib.contextmanager
def panels(
  path: str, legends: Sequence[str] = ('best', 'best'), **options: Any
) -> Iterator[Any]:
  """Two axes next to each other, saved to a file at the end of the block."""
  options = {'figsize': (10, 3.8), 'layout': 'constrained'} | options
  figure, axes = plt.subplots(1, 2, **options)
  yield axes
  for ax, place in zip(axes, legends, strict=True):
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc=place)
  figure.savefig(path, dpi=90)
  plt.close(figure)
