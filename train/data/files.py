"""Files of texts and of records, decompressed and checked as they are read.

Compression and parquet are recognized by the first bytes of a file, JSON lines
and arrays of JSON objects by their name (.jsonl, .ndjson) or how they begin,
CSV and TSV by their name.
"""

import bz2
from collections.abc import Iterator
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import re
from typing import Any, BinaryIO, cast
import zlib

from train.config.section import nearest

_ENDINGS = ('.gz', '.xz', '.bz2', '.zst')
_JSON_LINES = ('.jsonl', '.ndjson')
_TABLES = ('.csv', '.tsv')
_PARQUET = b'PAR1'
_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
# Formats that are not UTF-8 text: the offset and the bytes that show a format,
# its name, and what makes text of it.
_FOREIGN = (
  (0, b'PK\x03\x04', 'a zip archive', 'unpack it'),
  (0, b'7z\xbc\xaf\x27\x1c', 'a 7z archive', 'unpack it'),
  (0, b'Rar!\x1a\x07', 'a rar archive', 'unpack it'),
  (0, b'\x04"M\x18', 'compressed by lz4', 'unpack it'),
  (257, b'ustar\0', 'a tar archive', 'unpack it'),
  (257, b'ustar  \0', 'a tar archive', 'unpack it'),
  (0, b'%PDF-', 'a PDF', 'extract its text'),
  (0, b'\xff\xfe\0\0', 'UTF-32', 'convert it (iconv -f UTF-32 -t UTF-8)'),
  (0, b'\0\0\xfe\xff', 'UTF-32', 'convert it (iconv -f UTF-32 -t UTF-8)'),
  (0, b'\xff\xfe', 'UTF-16', 'convert it (iconv -f UTF-16 -t UTF-8)'),
  (0, b'\xfe\xff', 'UTF-16', 'convert it (iconv -f UTF-16 -t UTF-8)'),
)
# The longest line that is looked at to recognize JSON lines.
_LONGEST_LINE = 1 << 24
_ROWS = 1000
_TEXT_FIELD = (
  'set data.text_field (--text_field of train.prepare) to the one that holds'
  " the text, or to '' to read JSON as plain text"
)

Record = dict[str, Any]


def plain_name(path: str) -> str:
  """A path without the ending of a compressed file.

  Example:
    >>> plain_name('a.txt.GZ'), plain_name('a.txt')
    ('a.txt', 'a.txt')
  """
  root, ending = os.path.splitext(path)
  return root if ending.lower() in _ENDINGS else path


def texts(path: str, field: str) -> Iterator[bytes]:
  """The texts of a file in UTF-8, without a byte order mark.

  A text file is one text. In JSON (lines or an array of objects) and parquet
  every record has one in `field`, or an empty one where that is null; field ''
  reads JSON as plain text. Any file may be compressed.

  Raises:
    ValueError: the file is damaged or not a text, or a record has no such
      field.
    ImportError: the library for parquet or .zst is not installed.
  """
  if field and _has_records(path):
    for where, record in records(path, field):
      text = _field(record, field, where)
      try:
        yield check_text(text.encode('utf-8'), where)
      except UnicodeEncodeError as error:
        raise ValueError(
          f'{where} must hold valid Unicode, got half a surrogate pair at'
          f' character {error.start}: mend it, or leave it out.'
        ) from None
  else:
    yield _whole(path)


def records(path: str, *columns: str) -> Iterator[tuple[str, Record]]:
  """The records of a file: JSON lines, a JSON array, parquet, CSV or TSV.

  CSV has quotes as in RFC 4180, TSV has none; the first line of both names the
  columns. The file may be compressed. Of parquet only `columns` are read, or
  all if none is given.

  Yields:
    The place of a record, for messages, and the record.

  Raises:
    ValueError: the file is damaged or does not hold records.
    ImportError: the library for parquet or .zst is not installed.
  """
  name = plain_name(path).lower()
  if _head(path).startswith(_PARQUET):
    yield from _rows_of_parquet(path, columns)
  elif name.endswith(_TABLES):
    yield from _rows_of_table(path, is_tsv=name.endswith('.tsv'))
  else:
    yield from _objects(path)


def check_text(text: bytes, where: str) -> bytes:
  """Returns the text; a ValueError if it is not UTF-8 or has NUL bytes."""
  for start, magic, kind, advice in _FOREIGN:
    if text.startswith(magic, start):
      raise ValueError(
        f'{where} must be UTF-8 text, but it is {kind}: {advice}, or leave it'
        ' out.'
      )
  if (offset := text.find(b'\0')) >= 0:
    # Latin letters have their zero byte behind, or before, the other one.
    encoding = 'UTF-16LE' if offset % 2 else 'UTF-16BE'
    raise ValueError(
      f'{where} must be UTF-8 text, got a NUL byte at offset {offset}: if it'
      f' is text in UTF-16, convert it (iconv -f {encoding} -t UTF-8), else'
      ' leave it out.'
    )
  try:
    text.decode('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{where} must be UTF-8 text, got byte 0x{text[error.start]:02x} at'
      f' offset {error.start}: if it is text in another encoding, convert it'
      ' (iconv -f ENCODING -t UTF-8), else leave it out.'
    ) from None
  return text


def _whole(path: str) -> bytes:
  """The text of a file."""
  with _Opened(path) as file:
    text = file.read()
  return check_text(text.removeprefix(_BYTE_ORDER_MARK), repr(path))


class _Opened:
  """Opens a file for reading, decompressed; its errors name the file."""

  def __init__(self, path: str):
    self._path = path

  def __enter__(self) -> BinaryIO:
    try:
      self._file = _decompressed(self._path)
    except OSError as error:
      raise self._unreadable(error) from error
    return self._file

  def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
    self._file.close()
    if isinstance(error, (OSError, EOFError, lzma.LZMAError, zlib.error)):
      raise self._unreadable(error) from error

  def _unreadable(self, error: BaseException) -> ValueError:
    return ValueError(
      f'Cannot read {self._path!r} ({error}): it is damaged or incomplete;'
      ' mend it, or leave it out.'
    )


def _decompressed(path: str) -> BinaryIO:
  for magic, open_as in (
    (rb'\x1f\x8b', gzip.open),
    (rb'\xfd7zXZ\0', lzma.open),
    (rb'BZh[1-9]1AY&SY', bz2.open),
    (rb'\x28\xb5\x2f\xfd', _open_zst),
  ):
    if re.match(magic, _head(path)):
      return cast(BinaryIO, open_as(path, 'rb'))
  return open(path, 'rb')


def _open_zst(path: str, mode: str) -> Any:
  del mode
  stream = _pyarrow(path, '.zst').input_stream(path, compression='zstd')
  return io.BufferedReader(stream)


def _head(path: str) -> bytes:
  try:
    with open(path, 'rb') as file:
      return file.read(16)
  except OSError as error:
    raise ValueError(f'Cannot read {path!r} ({error.strerror}).') from error


def _pyarrow(path: str, kind: str) -> Any:
  try:
    import pyarrow
  except ImportError as error:
    raise ImportError(
      f'{path!r} is {kind} and needs the package pyarrow: pip install'
      " 'greedylore-jax[data]'."
    ) from error
  return pyarrow


def _has_records(path: str) -> bool:
  """Whether a file is parquet, JSON lines or a JSON array of objects."""
  if _head(path).startswith(_PARQUET):
    return True
  if plain_name(path).lower().endswith(_JSON_LINES):
    return True
  with _Opened(path) as file:
    head = file.read(1024).removeprefix(_BYTE_ORDER_MARK).lstrip()
  if not head.startswith(b'{'):
    return bool(re.match(rb'\[\s*\{\s*"', head))
  with _Opened(path) as file:
    lines = iter(lambda: file.readline(_LONGEST_LINE), b'')
    first = [*itertools.islice(filter(bytes.strip, lines), 2)]
  return len(first) == 2 and all(map(_is_object, first))


def _is_object(line: bytes) -> bool:
  try:
    return isinstance(json.loads(line.removeprefix(_BYTE_ORDER_MARK)), dict)
  except (ValueError, RecursionError):
    return False


def _objects(path: str) -> Iterator[tuple[str, Record]]:
  """The objects of JSON lines or of a JSON array."""
  with _Opened(path) as file:
    number, line = 1, file.readline().removeprefix(_BYTE_ORDER_MARK)
    while line:
      where = f'{path!r} line {number}'
      if number == 1 and line.lstrip().startswith(b'['):
        yield from _array(path, line + file.read())
        return
      if line.strip():
        yield where, _object(_json(line, where), where)
      number, line = number + 1, file.readline()


def _array(path: str, content: bytes) -> Iterator[tuple[str, Record]]:
  for i, found in enumerate(_json(content, repr(path))):
    where = f'{path!r} record {i + 1}'
    yield where, _object(found, where)


def _json(content: bytes, where: str) -> Any:
  try:
    return json.loads(content)
  except (ValueError, RecursionError) as error:
    check_text(content, where)  # It may be no text at all.
    raise ValueError(
      f'{where} must be JSON, but is not read as that ({error}): mend it, or'
      ' leave it out.'
    ) from error


def _object(found: Any, where: str) -> Record:
  if not isinstance(found, dict):
    raise ValueError(
      f'{where} must be a JSON object, {{"FIELD": ...}}, got'
      f' {repr(found)[:40]}.'
    )
  return found


def _field(record: Record, field: str, where: str) -> str:
  """A text of a record; '' for null."""
  if field not in record:
    raise ValueError(missing(field, list(record), where, _TEXT_FIELD))
  value = record[field]
  if value is not None and not isinstance(value, str):
    raise ValueError(
      f'{where} must hold a text in the field {field!r}, got'
      f' {repr(value)[:40]} (fields: {", ".join(record)}): {_TEXT_FIELD}.'
    )
  return value or ''


def missing(name: str, names: list[str], where: str, advice: str) -> str:
  """The message for a missing field."""
  return (
    f'{where} must have the field {name!r}, got {", ".join(names) or "none"}'
    f'{nearest(name, names)}: {advice}.'
  )


def _rows_of_parquet(
  path: str, columns: tuple[str, ...]
) -> Iterator[tuple[str, Record]]:
  arrow = _pyarrow(path, 'parquet')
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      needed = [x for x in columns if x in file.schema_arrow.names]
      start = 1
      for batch in file.iter_batches(_ROWS, columns=needed or None):
        for i, row in enumerate(batch.to_pylist()):
          yield f'{path!r} row {start + i}', row
        start += len(batch)
  except (OSError, arrow.ArrowException) as error:
    raise ValueError(
      f'Cannot read {path!r} as parquet ({_first_line(error)}): mend it, or'
      ' leave it out.'
    ) from error


def _rows_of_table(path: str, is_tsv: bool) -> Iterator[tuple[str, Record]]:
  options: dict[str, Any] = {'strict': True}
  if is_tsv:
    options = {'delimiter': '\t', 'quoting': csv.QUOTE_NONE}
  csv.field_size_limit(_LONGEST_LINE)
  lines = io.StringIO(_whole(path).decode('utf-8'), newline='')
  reader = csv.reader(lines, **options)
  try:
    names = next(reader, [])
    if len({*names}) < len(names) or not all(names):
      raise ValueError(
        f'{path!r} must name its columns, each differently, in its first'
        f' line, got {", ".join(map(repr, names))}.'
      )
    for row in reader:
      where = f'{path!r} line {reader.line_num}'
      if not row:
        continue
      if len(row) != len(names):
        raise ValueError(
          f'{where} must have {len(names)} fields, as the first line has, got'
          f' {len(row)}: mend it (fields with line breaks or separators need'
          ' CSV with quotes).'
        )
      if is_tsv and any(_is_quoted(x) for x in row):
        raise ValueError(
          f'{where} has quotes as in CSV, which TSV does not have: save the'
          ' table as CSV.'
        )
      yield where, dict(zip(names, row, strict=True))
  except csv.Error as error:
    raise ValueError(
      f'{path!r} line {reader.line_num} is not read as CSV ({error}): mend'
      ' it, or leave the file out.'
    ) from error


def _is_quoted(field: str) -> bool:
  """Whether a field has doubled quotes within quotes."""
  inner = field[1:-1]
  return (
    len(field) > 3
    and field[0] == field[-1] == '"'
    and '""' in inner
    and '"' not in inner.replace('""', '')
  )


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
