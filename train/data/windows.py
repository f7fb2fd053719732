"""Text as windows of tokens, and held-out text."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from train.data import batches, streams, tokenizers
from train.data import corpus as corpus_lib


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """Text to score on."""

  name: str
  """'' for the held-out part of the training corpus."""
  windows: np.ndarray
  """[windows, length + 1], in the smallest sufficient unsigned type."""
  bytes_per_token: float
  """Nats per token / (ln 2 * bytes_per_token) are bits per byte. The mark
  between documents counts as one byte."""
  tokens: int
  """How many there are, those that fill no window included."""
  sha256: str
  """Of its texts."""

  def take(self, sequences: int) -> np.ndarray:
    """`sequences` windows, evenly over all, int32 [sequences, length + 1].

    Raises:
      ValueError: there are fewer than `sequences`.
    """
    part = f'held-out {self.name}' if self.name else 'held-out'
    require(self.windows, sequences, part, 'evaluation.sequences')
    count = len(self.windows)
    chosen = batches.spread(count, sequences or count)
    return self.windows[chosen].astype(np.int32)


def held_out(
  name: str,
  documents: tuple[corpus_lib.Document, ...],
  tokenizer: tokenizers.Tokenizer,
  size: int,
) -> HeldOut:
  """Documents to score on, as windows."""
  tokens = tokens_of(documents, tokenizer)
  windows = cut(tokens, size)
  require(windows, 1, f'held-out {name}'.strip(), 'a run')
  num_bytes = sum(len(document.text) for document in documents)
  if tokenizer.end_of_text is not None:
    num_bytes += len(documents)
  return HeldOut(
    name=name,
    windows=windows,
    tokens=tokens.size,
    bytes_per_token=num_bytes / tokens.size,
    sha256=corpus_lib.Corpus(name, documents).sha256,
  )


def tokens_of(
  documents: Iterable[corpus_lib.Document], tokenizer: tokenizers.Tokenizer
) -> np.ndarray:
  """Ids of all documents, each followed by the end of text -> [tokens]."""
  # The empty array is there for no documents at all.
  parts = [np.array([], tokenizers.id_type(tokenizer.vocab_size))]
  parts += [tokenizers.encode_document(tokenizer, x.text) for x in documents]
  return np.concatenate(parts)


def cut(tokens: np.ndarray, size: int) -> np.ndarray:
  """[tokens] -> view [windows, size]; an incomplete last one is cut."""
  count = tokens.size // size
  return tokens[: count * size].reshape(count, size)


def require(
  windows: np.ndarray | streams.Windows, needed: int, part: str, reason: str
) -> None:
  """Raises a ValueError for fewer windows than are needed."""
  count, size = windows.shape
  if count < needed:
    raise ValueError(
      f'The {part} text has {count} windows of data.sequence_length + 1 ='
      f' {size} tokens, {reason} needs {needed}: use more text, shorter'
      ' sequences or fewer of them, or another data.eval_fraction.'
    )
