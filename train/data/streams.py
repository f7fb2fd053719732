"""Windows of texts that are read when their turn comes."""

from collections.abc import Iterator
import dataclasses
import hashlib

import numpy as np

from train.data import batches, datasets, tokenizers

# Documents that are hashed to tell data sets apart.
_SAMPLE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """An array [documents, size] of tokens, whose rows are made when taken.

  Row i holds document i and then those behind it, each followed by the end of
  text. So every row is full. What follows the first `size` tokens of a document
  is in no row, and a short document is also in the rows before its own.
  """

  split: datasets.Split
  tokenizer: tokenizers.Tokenizer
  size: int

  @property
  def shape(self) -> tuple[int, int]:
    """Documents and size."""
    return len(self.split), self.size

  def __len__(self) -> int:
    return len(self.split)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """The rows of these indices.

    Raises:
      ValueError: the documents hold nothing.
    """
    first = self.split.take(indices)
    rows = zip(indices, first, strict=True)
    return np.stack([self._row(int(i), example) for i, example in rows])

  def fingerprint(self) -> str:
    """16 hexadecimal digits of the hash of a sample of the documents."""
    count = len(self.split)
    digest = hashlib.sha256()
    for x in self.split.take(batches.spread(count, min(count, _SAMPLE))):
      digest.update(hashlib.sha256(x['text']).digest())
    return digest.hexdigest()[:16]

  def _row(self, index: int, first: datasets.Example) -> np.ndarray:
    parts, found = [], 0
    for example in self._from(index, first):
      parts.append(tokenizers.encode_document(self.tokenizer, example['text']))
      found += len(parts[-1])
      if found >= self.size:
        return np.concatenate(parts)[: self.size]
    raise ValueError(
      f'All documents together must have {self.size} tokens, got {found}: use'
      ' more text or shorter sequences.'
    )

  def _from(
    self, index: int, first: datasets.Example
  ) -> Iterator[datasets.Example]:
    """All documents once, from one on."""
    yield first
    for i in range(1, len(self.split)):
      yield self.split.take([(index + i) % len(self.split)])[0]
