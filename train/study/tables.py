"""Tables in Markdown, a row at a time or all at once."""

from collections.abc import Iterable, Sequence
import dataclasses


def row(*cells: object) -> str:
  """'| a | b |'."""
  return f'| {" | ".join(map(str, cells))} |'


def head(*columns: str) -> str:
  """The names of the columns and the line below them."""
  return f'{row(*columns)}\n{row(*["---"] * len(columns))}'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """A whole table; every line ends with a line break."""
  return '\n'.join([head(*columns), *(row(*cells) for cells in rows), ''])


@dataclasses.dataclass(frozen=True)
class Table:
  """The cells of a table, before they are Markdown or HTML."""

  columns: Sequence[str]
  rows: Sequence[Sequence[str]]

  def __str__(self) -> str:
    return table(self.columns, self.rows)
