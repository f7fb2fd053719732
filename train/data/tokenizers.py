"""From text to token ids: bytes, SentencePiece or Hugging Face tokenizers."""

import abc
from collections.abc import Iterable
import hashlib
import os
import sys
from typing import Protocol

import numpy as np

# What is encoded on both sides of a cut to see whether tokens cross it, and how
# far behind the end of a chunk a cut is sought.
_CONTEXT_BYTES = 256
_SEARCHED_BYTES = 2048

# What tokenizer.json files call the end of a text; they do not mark which of
# their tokens it is.
_END_OF_TEXT = ('<|endoftext|>', '<|end_of_text|>', '</s>', '<eos>', '[SEP]')


class Tokenizer(Protocol):
  """What the pipeline asks of a tokenizer."""

  name: str
  """Tells different tokenizers apart; the same on every machine."""
  vocab_size: int
  """Token ids are below this."""
  end_of_text: int | None
  """The id that follows each document; None if the tokenizer has none."""

  def encode(self, text: bytes) -> np.ndarray:
    """Returns the ids, [tokens], in the smallest sufficient unsigned type."""
    ...


def load(tokenizer: str) -> Tokenizer:
  """Loads the tokenizer that `data.tokenizer` names.

  That is 'bytes', or the path of a SentencePiece .model or a Hugging Face
  tokenizer.json. Nothing is downloaded and no code of a tokenizer is run.

  Raises:
    ValueError: it is none of these, or the file is missing or damaged.
    ImportError: the library that reads the file is not installed.

  Example:
    >>> load('bytes').encode(b'abc')
    array([97, 98, 99], dtype=uint8)
  """
  if tokenizer == 'bytes':
    return Bytes()
  if not tokenizer.endswith(('.model', '.json')):
    raise ValueError(
      "data.tokenizer must be 'bytes' or the path of a SentencePiece .model"
      f' or a Hugging Face tokenizer.json, got {tokenizer!r}.'
    )
  path = os.path.expanduser(tokenizer)
  if not os.path.isfile(path):
    raise ValueError(
      f'data.tokenizer must name a file, but there is no {tokenizer!r} in'
      f' {os.getcwd()!r}: put it there (the configuration says at its top where'
      ' it comes from), or set --data.tokenizer to another path.'
    )
  is_model = path.endswith('.model')
  return SentencePiece(path) if is_model else HuggingFace(path)


class Bytes:
  """Every byte is a token; byte 0, which text does not hold, ends a text."""

  name = 'bytes'
  vocab_size = 256
  end_of_text: int | None = 0

  def encode(self, text: bytes) -> np.ndarray:
    """Ids of a text, [tokens].

    Raises:
      ValueError: the text holds byte 0.
    """
    if (offset := text.find(b'\0')) >= 0:
      raise ValueError(
        "data.tokenizer 'bytes' takes texts without NUL bytes, got one at"
        f' offset {offset} of a text: remove it, or use another tokenizer.'
      )
    return np.frombuffer(text, np.uint8)


class Subwords(abc.ABC):
  """A tokenizer of a library, which gets long texts in chunks."""

  chunk_bytes = 1 << 18
  """Below this, the memory that a library needs (some 100 bytes per byte of
  text) is small."""
  name: str
  vocab_size: int
  end_of_text: int | None

  @abc.abstractmethod
  def ids(self, text: str) -> list[int]:
    """Ids of a text or a part of one."""

  def encode(self, text: bytes) -> np.ndarray:
    """Ids of a text, [tokens], as if it were encoded at once.

    Each chunk is encoded behind the end of the one before, whose ids are then
    dropped. So it does not begin as a text begins, where many tokenizers put a
    space.
    """
    dtype = id_type(self.vocab_size)
    parts = [np.array([], dtype)]  # Of a text without any chunk.
    start = 0
    try:
      while start < len(text):
        stop = self._cut(text, start + self.chunk_bytes)
        before = _decoded(text, start - _CONTEXT_BYTES, start)
        chunk = _decoded(text, start, stop)
        known = self.ids(before) if before else []
        ids = self.ids(before + chunk)
        if ids[: len(known)] != known:
          known, ids = [], self.ids(chunk)
        parts.append(np.array(ids[len(known) :], dtype))
        start = stop
    except Exception as error:  # The libraries raise plain Exception.
      shown = text[start : start + 40].decode('utf-8', 'replace')
      raise self._not_encoded(shown, error) from error
    return np.concatenate(parts)

  def _cut(self, text: bytes, least: int) -> int:
    """The first place from `least` on that no token crosses.

    It is one before a space, if there is one near, as a token for unknown words
    hides whether a cut is within a word. If tokens cross all places near, it is
    a place between two characters.
    """
    if least >= len(text):
      return len(text)
    near = range(least, min(len(text), least + _SEARCHED_BYTES))
    places = [place for place in near if _begins_character(text, place)]
    spaces = [place for place in places if text[place : place + 1].isspace()]
    for place in (*spaces, *places):
      before = _decoded(text, place - _CONTEXT_BYTES, place)
      behind = _decoded(text, place, place + _CONTEXT_BYTES)
      known = self.ids(before)
      if self.ids(before + behind)[: len(known)] == known:
        return place
    return places[0]

  def _not_encoded(self, text: str, error: Exception) -> ValueError:
    return ValueError(
      f'data.tokenizer must encode every text, but {self.name} fails ({error})'
      f' at {text[:40]!r}: use another one, or leave this text out.'
    )


class SentencePiece(Subwords):
  """A SentencePiece model: unigram or BPE, as LLaMA, Mistral and T5 use.

  The model's own normalization applies; many models turn line breaks into
  spaces.
  """

  def __init__(self, path: str):
    try:
      import sentencepiece
    except ImportError as error:
      raise _missing('sentencepiece', path) from error
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
      raise _damaged('SentencePiece model', path, error) from error
    self.name = _fingerprint(path)
    self.vocab_size = self._model.vocab_size()
    end = self._model.eos_id()
    self.end_of_text = end if end >= 0 else None

  def ids(self, text: str) -> list[int]:
    """Ids of a text."""
    return self._model.encode(text)


class HuggingFace(Subwords):
  """A tokenizer.json of the Hugging Face tokenizers library.

  Truncation and padding that the file asks for are switched off, and no
  special tokens are added around a text.
  """

  def __init__(self, path: str):
    try:
      import tokenizers
    except ImportError as error:
      raise _missing('tokenizers', path) from error
    try:
      self._model = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # The library raises plain Exception.
      raise _damaged('Hugging Face tokenizer', path, error) from error
    self._model.no_truncation()
    self._model.no_padding()
    self.name = _fingerprint(path)
    ids = self._model.get_vocab()
    if not ids:
      raise _damaged('Hugging Face tokenizer', path, 'it has no tokens')
    # Ids may have holes, so the number of tokens is not enough.
    self.vocab_size = 1 + max(ids.values())
    self.end_of_text = next((ids[t] for t in _END_OF_TEXT if t in ids), None)

  def ids(self, text: str) -> list[int]:
    """Ids of a text, without special tokens."""
    return self._model.encode(text, add_special_tokens=False).ids

  def encode_with_marks(
    self, first: str, second: str | None = None, *, length: int
  ) -> tuple[list[int], list[int]]:
    """A sentence or a pair with the special tokens of its model.

    There are at most `length` tokens, marks included; the longer sentence is
    cut.

    Returns:
      Ids, and for each of them 1 in the second sentence and 0 elsewhere.

    Raises:
      ValueError: the marks leave no room, or the text cannot be encoded.
    """
    sentences = 1 if second is None else 2
    least = sentences + self._model.num_special_tokens_to_add(sentences == 2)
    if length < least:
      raise ValueError(
        f'data.sequence_length must be at least {least} for the special'
        f' tokens of {self.name} and one token of each sentence, got'
        f' {length}.'
      )
    self._model.enable_truncation(length)
    try:
      found = self._model.encode(first, second)
    except Exception as error:  # The library raises plain Exception.
      raise self._not_encoded(first, error) from error
    finally:
      self._model.no_truncation()
    return found.ids, found.type_ids


def train(texts: Iterable[str], vocab_size: int, path: str) -> int:
  """Writes a tokenizer.json: byte pairs, merged as often as they occur.

  Of the `vocab_size` tokens 256 are bytes, and one ends texts.

  Returns:
    How many tokens it has: fewer than asked for if the texts are too short.

  Raises:
    ValueError: there is no room for all bytes.
    ImportError: the library is not installed.
  """
  try:
    import tokenizers
  except ImportError as error:
    raise _missing('tokenizers', path) from error
  alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
  if vocab_size <= len(alphabet):
    raise ValueError(
      f'A vocabulary must have more than {len(alphabet)} tokens, one for each'
      f' byte and one for the end of a text; got {vocab_size}.'
    )
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[_END_OF_TEXT[0]],
    initial_alphabet=sorted(alphabet),
    show_progress=sys.stderr.isatty(),
  )
  model.train_from_iterator(texts, trainer)
  model.save(path)
  return model.get_vocab_size()


def encode_document(tokenizer: Tokenizer, text: bytes) -> np.ndarray:
  """Ids of a text and of its end, [tokens]."""
  ids, end = tokenizer.encode(text), tokenizer.end_of_text
  return ids if end is None else np.append(ids, ids.dtype.type(end))


def id_type(vocab_size: int) -> np.dtype:
  """The smallest unsigned type that holds ids below `vocab_size`."""
  return np.min_scalar_type(vocab_size - 1)


def _decoded(text: bytes, start: int, stop: int) -> str:
  """About those bytes, cut between characters."""
  start, stop = max(0, start), min(stop, len(text))
  while 0 < start < len(text) and not _begins_character(text, start):
    start -= 1
  while stop < len(text) and not _begins_character(text, stop):
    stop += 1
  return text[start:stop].decode('utf-8')


def _begins_character(text: bytes, place: int) -> bool:
  return text[place] & 0xC0 != 0x80  # 0b10xxxxxx continues one in UTF-8.


def _fingerprint(path: str) -> str:
  """The file's own name and 16 digits of the hash of its content."""
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  return f'{os.path.basename(path)} {digest[:16]}'


def _missing(library: str, path: str) -> ImportError:
  return ImportError(
    f'data.tokenizer {path!r} needs the package {library}: pip install'
    " 'greedylore-jax[train]'."
  )


def _damaged(kind: str, path: str, error: Exception | str) -> ValueError:
  return ValueError(
    f'data.tokenizer must be a {kind}, but {path!r} is not read as one'
    f' ({error}): check the file.'
  )
