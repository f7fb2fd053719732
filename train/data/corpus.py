"""Text documents, and the held-out ones among them."""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import glob
import hashlib
import io
import os
import pathlib
import platform
import sysconfig

from train.data import files as files_lib

# Installed packages are no part of the standard library, and not every Python
# ships its tests.
_LEFT_OUT = frozenset(
  (
    '__pycache__',
    'dist-packages',
    'idle_test',
    'site-packages',
    'test',
    'tests',
  )
)
# These the build writes: they hold compiler flags and paths, so they differ
# between machines with the same Python.
_GENERATED = ('_sysconfigdata', 'config-')


# Lines are compared in pieces of this many bytes; some texts are one line.
_PIECE_BYTES = 1024


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
  left_out: tuple[str, ...] = ()
  """Texts that were read and dropped: '2 empty texts'."""

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


def read(source: str, files: Sequence[str] = (), field: str = 'text') -> Corpus:
  """Reads a corpus.

  The standard library differs between Python versions, so two runs compare
  only where `Corpus.sha256` is equal. Empty texts and second copies of a text
  are dropped: a copy could land on both sides of `split`.

  Args:
    source: 'python-stdlib', the .py sources of the running Python without
      tests, installed packages and what its build generated; or 'files'.
    files: for 'files', paths or glob patterns of what `files.texts` reads. The
      name of such a document is a hash of its text, so that neither order nor
      `split` depends on the names of files.
    field: for 'files', the field of JSON lines and parquet that holds a text.

  Raises:
    ValueError: a pattern matches no file, a file cannot be read or is no text,
      or no text is left.

  Example:
    >>> corpus = read('python-stdlib')
    >>> 'functools.py' in [document.name for document in corpus.documents]
    True
  """
  if source == 'python-stdlib':
    name = f'python-stdlib {platform.python_version()}'
    texts: Iterable[Document] = (
      Document(name, text)
      for name, path in sorted(_stdlib_paths().items())
      for text in files_lib.texts(path, '')
    )
  else:
    name = 'files'
    texts = (
      Document(hashlib.sha256(text).hexdigest(), text)
      for path in matching_paths(files, 'data.files')
      for text in files_lib.texts(path, field)
    )
  documents, left_out = _distinct(texts)
  if not documents:
    raise ValueError(
      f'data.source {source!r} must hold text, got'
      f' {", ".join(left_out) or "no files"}: name files that hold text in'
      " data.files, with data.source 'files'."
    )
  in_order = sorted(documents, key=lambda document: document.name)
  return Corpus(name, tuple(in_order), left_out)


def of_texts(name: str, texts: Iterable[bytes], max_bytes: int = 0) -> Corpus:
  """A corpus of texts in their order.

  Empty texts and second copies of a text are dropped. A document's name is its
  number. `max_bytes` is rounded down to whole texts; 0 is no limit.

  Raises:
    ValueError: there is no text.
  """
  documents, left_out = _distinct(
    Document(f'{i:09}', text) for i, text in enumerate(_up_to(max_bytes, texts))
  )
  if not documents:
    raise ValueError(
      f'{name} must hold a text of at most data.max_bytes={max_bytes} bytes,'
      ' got none.'
    )
  return Corpus(name, tuple(documents), left_out)


def repeated(
  held_out: Iterable[Document], training: Iterable[Document]
) -> tuple[int, float]:
  """How much of the held-out text is also training text.

  Texts are compared by lines, and longer lines by pieces of 1,024 bytes.

  Returns:
    How many held-out documents are training text by at least half of their
    bytes, and the share of these documents in the held-out bytes.
  """
  held_out = tuple(held_out)
  asked = {piece for document in held_out for piece in _pieces(document)}
  found: set[bytes] = set()
  for document in training:
    found |= asked.intersection(_pieces(document))
  count = size = 0
  for document in held_out:
    pieces = [*_pieces(document)]
    known = sum(len(piece) for piece in pieces if piece in found)
    if known and 2 * known >= sum(map(len, pieces)):
      count, size = count + 1, size + len(document.text)
  return count, size / max(1, sum(len(x.text) for x in held_out))


def _pieces(document: Document) -> Iterator[bytes]:
  lines = functools.partial(io.BytesIO(document.text).readline, _PIECE_BYTES)
  return map(bytes.strip, iter(lines, b''))


def matching_paths(patterns: Sequence[str], option: str) -> list[str]:
  """The files that patterns match, in order of their paths.

  Raises:
    ValueError: a pattern matches none; `option` is where it stood.
  """
  paths = set()
  for pattern in map(os.path.expanduser, patterns):
    # A file whose name happens to hold [ or * is taken as it stands.
    matches = (
      [pattern]
      if os.path.isfile(pattern)
      else filter(os.path.isfile, glob.glob(pattern, recursive=True))
    )
    found = {os.path.abspath(match) for match in matches}
    if not found:
      raise ValueError(
        f'{option} must name files, but {pattern!r} matches none in'
        f' {os.getcwd()!r}: check the spelling; a folder needs a pattern,'
        " such as 'folder/**/*.txt'."
      )
    paths |= found
  return sorted(paths)


def _distinct(
  documents: Iterable[Document],
) -> tuple[list[Document], tuple[str, ...]]:
  """Documents without empty and repeated ones, and how many these are."""
  kept, seen, empty, copies = [], set(), 0, 0
  for document in documents:
    digest = hashlib.sha256(document.text).digest()
    if not document.text:
      empty += 1
    elif digest in seen:
      copies += 1
    else:
      seen.add(digest)
      kept.append(document)
  return kept, tuple(
    f'{count:,} {kind} text{"s" * (count > 1)}'
    for count, kind in ((empty, 'empty'), (copies, 'repeated'))
    if count
  )


def _up_to(max_bytes: int, texts: Iterable[bytes]) -> Iterator[bytes]:
  """The first texts that fit into `max_bytes`; 0 means all of them."""
  size = 0
  for text in texts:
    size += len(text)
    if max_bytes and size > max_bytes:
      return
    yield text


def split(
  corpus: Corpus, eval_fraction: float
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
  """Divides a corpus by whole documents into training and held-out parts.

  The documents are taken in the order of a hash of their names, and each one
  that still fits into `eval_fraction` of the bytes is held out. Where these
  come to less than half of that share (there is only one document, or all are
  large), the end of the largest document is held out in their place.

  Both parts keep the order of the corpus.

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
      s
      for s in subfolders
      if s not in _LEFT_OUT and not s.startswith(_GENERATED)
    )
    for name in names:
      if name.endswith('.py') and not name.startswith(_GENERATED):
        yield os.path.join(folder, name)
