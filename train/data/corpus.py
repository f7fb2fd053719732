"""Text documents, and which of them are held out for evaluation."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import glob
import hashlib
import lzma
import os
import pathlib
import platform
import sysconfig

# Installed packages are no part of the standard library, and not every Python
# ships its tests.
_LEFT_OUT = frozenset((
    '__pycache__', 'dist-packages', 'idle_test', 'site-packages', 'test',
    'tests',
))
# These the build writes: they hold compiler flags and paths, so they differ
# between machines with the same Python.
_GENERATED = ('_sysconfigdata', 'config-')


@dataclasses.dataclass(frozen=True)
class Document:
  """One text: its name, the same on every machine, and its UTF-8 bytes."""

  name: str
  text: bytes


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Documents in order of their names; no two have the same text."""

  name: str
  documents: tuple[Document, ...]

  @functools.cached_property
  def num_bytes(self) -> int:
    """Bytes of text."""
    return sum(len(document.text) for document in self.documents)

  @functools.cached_property
  def sha256(self) -> str:
    """First 16 hexadecimal digits of a hash of all names and texts."""
    digest = hashlib.sha256()
    for document in self.documents:
      digest.update(hashlib.sha256(document.name.encode()).digest())
      digest.update(hashlib.sha256(document.text).digest())
    return digest.hexdigest()[:16]


def read(source: str, files: Sequence[str] = ()) -> Corpus:
  """Reads a corpus.

  The standard library differs between Python versions, so two runs compare
  only where `Corpus.sha256` is the same. Empty files and second copies of a
  text are dropped: a copy could land on both sides of `split`.

  Args:
    source: 'python-stdlib', the .py sources of the running Python without
      tests, installed packages and what its build generated; or 'files'.
    files: for 'files', paths or glob patterns (** goes into subfolders) of
      UTF-8 texts; those whose name ends in .xz are decompressed. A document's
      name is its path below the folder that all of them share.

  Returns:
    The corpus, with at least one document.

  Raises:
    ValueError: the source is unknown, a pattern matches no file, a file cannot
      be read or is not UTF-8, or no text is left.

  Example:
    >>> corpus = read('python-stdlib')
    >>> 'functools.py' in [document.name for document in corpus.documents]
    True
  """
  if source == 'python-stdlib':
    name = f'python-stdlib {platform.python_version()}'
    named_paths = _stdlib_paths()
  elif source == 'files':
    name, named_paths = 'files', _matching_paths(files)
  else:
    raise ValueError(
        f"data.source must be 'python-stdlib' or 'files', got {source!r}."
    )
  documents, seen = [], {b''}
  for document_name, path in sorted(named_paths.items()):
    text = _read_text(path)
    if text not in seen:
      seen.add(text)
      documents.append(Document(document_name, text))
  if not documents:
    raise ValueError(
        f'data.source {source!r} must hold text, got {len(named_paths)} files'
        " and no text in them: use data.source 'files' and name text files in"
        ' data.files.'
    )
  return Corpus(name, tuple(documents))


def of_texts(name: str, texts: Iterable[bytes], max_bytes: int = 0) -> Corpus:
  """Texts in their order as a corpus, up to so many bytes (0 is all).

  Second copies of a text are dropped. A document's name is its number.

  Raises:
    ValueError: there is no text.
  """
  documents, seen, size = [], {b''}, 0
  for i, text in enumerate(texts):
    size += len(text)
    if max_bytes and size > max_bytes:
      break
    if text not in seen:
      seen.add(text)
      documents.append(Document(f'{i:09}', text))
  if not documents:
    raise ValueError(
        f'{name} must hold a text of at most data.max_bytes={max_bytes} bytes,'
        ' got none.'
    )
  return Corpus(name, tuple(documents))


def split(
    corpus: Corpus, eval_fraction: float
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
  """Divides a corpus by whole documents into training and held-out parts.

  The documents are taken in the order of a hash of their names, and each one
  that still fits into `eval_fraction` of the bytes is held out. Where these
  come to less than half of that share (there is only one document, or all are
  large), the end of the largest document is held out in their place.

  Args:
    corpus: what to divide.
    eval_fraction: share of the bytes to hold out, 0 to 1.

  Returns:
    Training documents and held-out documents, both in order of their names.

  Example:
    >>> corpus = Corpus('one', (Document('a', b'0123456789'),))
    >>> train, held_out = split(corpus, 0.2)
    >>> train[0].text, held_out[0].text
    (b'01234567', b'89')
  """
  budget = eval_fraction * corpus.num_bytes
  chosen, held_bytes = set(), 0
  for document in sorted(corpus.documents, key=_name_hash):
    if held_bytes + len(document.text) <= budget:
      chosen.add(document.name)
      held_bytes += len(document.text)
  if held_bytes < budget / 2:
    return _split_largest(corpus, round(budget))
  train = tuple(d for d in corpus.documents if d.name not in chosen)
  held_out = tuple(d for d in corpus.documents if d.name in chosen)
  return train, held_out


def _name_hash(document: Document) -> bytes:
  return hashlib.sha256(document.name.encode()).digest()


def _split_largest(
    corpus: Corpus, num_bytes: int
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
  """Holds out the last num_bytes of the largest document, or a little more."""
  largest = max(corpus.documents, key=lambda d: len(d.text))
  name, text = largest.name, largest.text
  cut = max(0, len(text) - num_bytes)
  # 0b10xxxxxx continues a character of UTF-8: do not cut within one.
  while 0 < cut < len(text) and text[cut] & 0xC0 == 0x80:
    cut -= 1
  train = tuple(
      dataclasses.replace(d, text=text[:cut]) if d is largest else d
      for d in corpus.documents
  )
  return train, (Document(f'{name} from byte {cut}', text[cut:]),)


def _stdlib_paths() -> dict[str, str]:
  """Path of each source of the standard library, by its name."""
  root = sysconfig.get_path('stdlib')
  return {
      pathlib.Path(path).relative_to(root).as_posix(): path
      for path in _python_sources(root)
  }


def _python_sources(root: str) -> Iterator[str]:
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = (
        s for s in subfolders
        if s not in _LEFT_OUT and not s.startswith(_GENERATED)
    )
    for name in names:
      if name.endswith('.py') and not name.startswith(_GENERATED):
        yield os.path.join(folder, name)


def _matching_paths(patterns: Sequence[str]) -> dict[str, str]:
  """Path of each file that a pattern matches, by its name."""
  paths = set()
  for pattern in map(os.path.expanduser, patterns):
    # A file whose name happens to hold [ or * is taken as it stands.
    matches = (
        [pattern] if os.path.isfile(pattern)
        else filter(os.path.isfile, glob.glob(pattern, recursive=True))
    )
    found = {os.path.abspath(match) for match in matches}
    if not found:
      raise ValueError(
          f'data.files must name text files, but {pattern!r} matches none in'
          f' {os.getcwd()!r}: check the spelling; a folder needs a pattern,'
          " such as 'folder/**/*.txt'."
      )
    paths |= found
  folders = {os.path.dirname(path) for path in paths}
  root = os.path.commonpath(folders) if folders else ''
  return {
      pathlib.Path(path).relative_to(root).as_posix(): path for path in paths
  }


def _read_text(path: str) -> bytes:
  """The bytes of a UTF-8 file, decompressed if it is .xz."""
  try:
    with (lzma.open if path.endswith('.xz') else open)(path, 'rb') as file:
      text = file.read()
  except (OSError, EOFError, lzma.LZMAError) as error:
    raise ValueError(
        f'Cannot read {path!r} ({error}): mend it, or leave it out.'
    ) from error
  try:
    text.decode('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
        f'{path!r} must be UTF-8 text, got byte 0x{text[error.start]:02x} at'
        f' offset {error.start}: convert it (iconv -f ENCODING -t UTF-8) or'
        ' leave it out.'
    ) from error
  return text
