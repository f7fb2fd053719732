"""Your own labeled sentences, from files of records."""

from collections.abc import Callable, Iterator
import dataclasses
import hashlib
import math
from typing import Any

import numpy as np

from train.data import corpus, datasets, files, sources

# With more classes than this, at least two rows must be of each on average.
_MANY_CLASSES = 20


def sentences(
  patterns: list[str],
  columns: list[str] | None,
  is_score: bool,
  evaluation: sources.Evaluation,
) -> sources.Source:
  """Labeled sentences, or pairs of them, from files of records.

  Args:
    patterns: of the files, see `files.records`.
    columns: one or two columns of sentences, then the column of the label;
      None finds them by their usual names in the first row.
    is_score: whether labels are numbers to predict rather than classes. They
      are in any case if one of them is a fraction.
    evaluation: what becomes the part 'validation'.

  Raises:
    ValueError: a file does not hold such records, or labels are not classes.
  """
  rows, without, columns = _rows(patterns, columns)
  held_out: list[_Row] = []
  remarks = []
  if evaluation.held_out:
    held_out, more, _ = _rows(list(evaluation.held_out), columns)
    without += more
    known = {row.texts for row in rows}
    count = sum(row.texts in known for row in held_out)
    remarks += sources.also_training(count, count / len(held_out), 'rows')
  if without:
    remarks.append(f'rows left out without a sentence or a label: {without:,}')
  label, read, found = _labels(rows, held_out, is_score)
  if not evaluation.held_out and evaluation.fraction:
    rows = sorted(rows, key=_Row.digest)
    cut = round(evaluation.fraction * len(rows))
    held_out, rows = rows[:cut], rows[cut:]
    if not held_out or not rows:
      raise ValueError(
        '--eval_fraction must leave rows in both parts, got'
        f' {evaluation.fraction} of {len(rows) + len(held_out)}: use another.'
      )
  is_pair = len(rows[0].texts) == 2
  keys = ('sentence1', 'sentence2') if is_pair else ('sentence',)

  def part(of: list[_Row]) -> Callable[[], Iterator[datasets.Example]]:
    return lambda: (
      {**dict(zip(keys, row.texts, strict=True)), 'label': read(row.label)}
      for row in of
    )

  splits = {'train': part(rows)}
  if held_out:
    splits['validation'] = part(held_out)
  text = datasets.library().features.Text()
  features = {**dict.fromkeys(keys, text), 'label': label}
  return sources.Source(features, splits, (found, *remarks))


@dataclasses.dataclass(frozen=True)
class _Row:
  """A labeled sentence or pair."""

  texts: tuple[str, ...]
  label: str
  where: str

  def digest(self) -> bytes:
    """Equal for equal sentences."""
    return hashlib.sha256('\0'.join(self.texts).encode()).digest()


def _rows(
  patterns: list[str], columns: list[str] | None
) -> tuple[list[_Row], int, list[str] | None]:
  """The rows of files, how many have no sentence or no label, their columns."""
  rows, without = [], 0
  for path in corpus.matching_paths(patterns, '--sentences and --held_out'):
    for where, record in files.records(path):
      columns = columns or _usual_columns(record, where)
      for name in columns:
        if name not in record:
          advice = 'name the columns that you mean with --columns'
          raise ValueError(files.missing(name, list(record), where, advice))
      *found, label = (_value(record[name], name, where) for name in columns)
      if all(found) and label:
        rows.append(_Row(tuple(found), label, where))
      else:
        without += 1
  if not rows:
    raise ValueError(
      f'{" ".join(patterns)} must hold labeled sentences, got {without} rows'
      ' without a sentence or a label.'
    )
  return rows, without, columns


def _usual_columns(record: files.Record, where: str) -> list[str]:
  for names in datasets.SENTENCES:
    if {*names, 'label'} <= record.keys():
      return [*names, 'label']
  raise ValueError(
    f'{where} must have columns such as sentence (or sentence1 and sentence2)'
    f' and label, got {", ".join(record)}: name yours with --columns SENTENCE'
    ' [SENTENCE] LABEL.'
  )


def _value(value: Any, name: str, where: str) -> str:
  """A sentence or a label as a string; '' for none."""
  if value is None or value != value:  # NaN is what tables have for none.
    return ''
  if not isinstance(value, (str, int, float)):
    raise ValueError(
      f'{where} must have a text or a number in {name!r}, got'
      f' {repr(value)[:40]}: name other columns with --columns.'
    )
  text = str(int(value) if isinstance(value, bool) else value)
  files.check_text(text.encode('utf-8', 'surrogatepass'), where)
  return text.strip()


def _labels(
  rows: list[_Row], held_out: list[_Row], is_score: bool
) -> tuple[Any, Callable[[str], Any], str]:
  """The feature of a label, how to read one, and what labels there are."""
  numbers = [_number(row.label) for row in (*rows, *held_out)]
  known = [x for x in numbers if x is not None]
  are_numbers = len(known) == len(numbers)
  if is_score and not are_numbers:
    row = next(x for x in (*rows, *held_out) if _number(x.label) is None)
    raise ValueError(
      f'{row.where} must have a number as its score, got {row.label!r}.'
    )
  if are_numbers and (is_score or not all(x.is_integer() for x in known)):
    found = f'labels: scores from {min(known):g} to {max(known):g}'
    return np.float32, float, found
  as_class = (lambda x: str(int(float(x)))) if are_numbers else str
  names = sorted(
    {as_class(row.label) for row in rows}, key=int if are_numbers else None
  )
  count = len(names)
  if count < 2 or (count > _MANY_CLASSES and 2 * count > len(rows)):
    raise ValueError(
      f'Labels must be at least two classes, with several rows each, got'
      f' {count} in {len(rows)} rows: name the column of the label with'
      ' --columns, or say --score if it is a number to predict.'
    )
  for row in held_out:
    if as_class(row.label) not in names:
      raise ValueError(
        f'{row.where} has the label {row.label!r}, which no row to train on'
        f' has ({", ".join(names[:10])}): mend it, or leave it out.'
      )
  feature = datasets.library().features.ClassLabel(names=names)
  shown = ', '.join(names[:10]) + (', ...' if count > 10 else '')
  return feature, as_class, f'labels: {count} classes ({shown})'


def _number(label: str) -> float | None:
  try:
    found = float(label)
  except ValueError:
    return None
  return found if math.isfinite(found) else None
