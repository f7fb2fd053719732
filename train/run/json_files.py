"""JSON files: strict when written, and errors name the damaged file.

JSON has no NaN and no infinity: a number that is not finite is written as null.
"""

from collections.abc import Iterator
import contextlib
import json
import math
import os
import pathlib
from typing import Any

from train.config import regular_files


def dumps(value: Any, indent: int | None = None) -> str:
  """Strict JSON, with null for every number that is not finite.

  Example:
    >>> dumps({'loss': float('nan'), 'step': 3})
    '{"loss": null, "step": 3}'
  """
  return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
  """The same nested dicts and lists, with None for non-finite numbers."""
  if isinstance(value, dict):
    return {key: finite(x) for key, x in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite(x) for x in value]
  broken = isinstance(value, float) and not math.isfinite(value)
  return None if broken else value


def write(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file for people, with indentation; see `write_text`."""
  write_text(path, f'{dumps(value, indent=2)}\n')


def write_text(path: pathlib.Path, text: str) -> None:
  """Replaces a file as a whole: a reader finds the old or the new content.

  Raises:
    OSError: if that fails; the message names the file.
  """
  with writing(path):
    partial = path.with_suffix('.partial')
    partial.write_text(text, encoding='utf-8')
    os.replace(partial, path)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Names the file in the error if the block cannot write to it."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} could not be written ({error.strerror or error}). Correct that'
      ' and rerun the same command to resume from the last checkpoint.'
    ) from error


def read(path: pathlib.Path) -> Any:
  """The value in a JSON file.

  Raises:
    ValueError: if the file is damaged; the message names it.
    OSError: if the file cannot be read.
  """
  regular_files.check(path)
  try:
    return json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path} is damaged: expected JSON, got {_reason(error)}. Put back a'
      ' copy of it, or delete it.'
    ) from None


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a file with one JSON object per line.

  A last line without its line break was cut off and is left out. A missing file
  has no lines.

  Raises:
    ValueError: if a line is damaged; the message names the file and the line.
    OSError: if the file cannot be read.
  """
  if not os.path.lexists(path):
    return []
  regular_files.check(path)
  lines = path.read_bytes().split(b'\n')[:-1]
  return [_object(path, i, line) for i, line in enumerate(lines, start=1)]


def _object(path: pathlib.Path, number: int, line: bytes) -> dict[str, Any]:
  try:
    value = json.loads(line)
    if not isinstance(value, dict):
      raise ValueError('another kind of value')
  except (ValueError, RecursionError) as error:
    shown = line[:40].decode(errors='replace')
    raise damaged_line(
      path, number, f'a JSON object, got {shown!r} ({_reason(error)})'
    ) from None
  return value


def damaged_line(path: pathlib.Path, number: int, what: str) -> ValueError:
  """The error for a line; `what` says what was expected, and what came."""
  return ValueError(
    f'{path} is damaged: line {number} must hold {what}. Delete the line, or'
    ' put back a copy of the file.'
  )


def _reason(error: Exception) -> str:
  if isinstance(error, RecursionError):
    return 'values that are nested too deeply'
  return str(error)
