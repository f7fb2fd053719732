"""Documents to token windows, and windows to batches of any worker count."""

from collections.abc import Iterable
import dataclasses

import grain
import numpy as np

from train import config
from train.data import batches
from train.data import corpus as corpus_lib
from train.data import datasets
from train.data import tokenizers

# Training and held-out documents.
_Parts = tuple[
    tuple[corpus_lib.Document, ...], tuple[corpus_lib.Document, ...]
]


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
  """Training and held-out text as windows of `sequence_length` + 1 tokens.

  A window holds the inputs `window[:-1]` and the targets `window[1:]`. Windows
  do not overlap, run across document borders, and are the same on every
  process.
  """

  description: dict[str, str | int]
  """What the data are, fit for JSON: corpus, bytes, sha256, tokenizer,
  vocab_size, sequence_length, train_tokens, held_out_tokens. Losses compare
  only between runs where all of these are equal."""
  vocab_size: int
  """Token ids are below this."""
  bytes_per_token: float
  """Of the held-out text: nats per token / (ln 2 * bytes_per_token) are bits
  per byte. The mark between documents counts as one byte."""
  training_windows: np.ndarray
  """[windows, length + 1], in the smallest sufficient unsigned type."""
  held_out_windows: np.ndarray
  """The same of the held-out part."""
  seed: int
  """Of the order of the training windows."""

  def train(
      self, batch_size: int, process_index: int = 0, process_count: int = 1
  ) -> grain.DatasetIterator:
    """Endless batches, int32 [batch_size / process_count, length + 1].

    Shuffled by data.seed and divided as in `batches.endless`.

    Args:
      batch_size: windows per step over all processes; process_count divides
        it.
      process_index: this process, from 0.
      process_count: how many there are.

    Raises:
      ValueError: process_count does not divide batch_size, or there are fewer
        training windows than one batch needs.

    Example:
      >>> windows = load(config.Data(sequence_length=8)).train(batch_size=4)
      >>> next(windows).shape, windows.get_state()
      ((4, 9), {'next_index': 1})
    """
    windows = self.training_windows
    _require_windows(windows, batch_size, 'training', 'one batch')
    return batches.endless(
        len(windows),
        lambda indices, _: windows[indices].astype(np.int32),
        batch_size, self.seed, process_index, process_count,
    )  # fmt: skip

  def evaluation(self, sequences: int) -> np.ndarray:
    """Held-out windows, int32 [sequences, length + 1].

    They are spread evenly over the held-out text: always the same ones,
    whatever data.seed and the number of processes. 0 is all of them.

    Raises:
      ValueError: there are fewer than `sequences` held-out windows.
    """
    _require_windows(
        self.held_out_windows, sequences, 'held-out', 'evaluation.sequences'
    )
    count = len(self.held_out_windows)
    chosen = batches.spread(count, sequences or count)
    return self.held_out_windows[chosen].astype(np.int32)


def load(data: config.Data) -> TextData:
  """Reads, splits and tokenizes the text that a configuration asks for.

  Args:
    data: section `data` of the configuration.

  Raises:
    ValueError: the corpus or the tokenizer cannot be read, or the training or
      the held-out part is shorter than one window.
    ImportError: the tokenizer's library is not installed.

  Example:
    >>> text = load(config.Data(sequence_length=8))
    >>> text.vocab_size, text.bytes_per_token, text.evaluation(2).shape
    (256, 1.0, (2, 9))
  """
  tokenizer = tokenizers.load(data.tokenizer)
  corpus, (train, held_out) = _documents(data)
  train_tokens = _tokens(train, tokenizer)
  held_out_tokens = _tokens(held_out, tokenizer)
  train_windows = _windows(train_tokens, data.sequence_length)
  held_out_windows = _windows(held_out_tokens, data.sequence_length)
  _require_windows(train_windows, 1, 'training', 'a run')
  _require_windows(held_out_windows, 1, 'held-out', 'a run')
  held_out_bytes = sum(len(document.text) for document in held_out)
  if tokenizer.end_of_text is not None:
    held_out_bytes += len(held_out)
  return TextData(
      description={
          'corpus': corpus.name,
          'bytes': corpus.num_bytes,
          'sha256': corpus.sha256,
          'tokenizer': tokenizer.name,
          'vocab_size': tokenizer.vocab_size,
          'sequence_length': data.sequence_length,
          'train_tokens': train_tokens.size,
          'held_out_tokens': held_out_tokens.size,
      },
      vocab_size=tokenizer.vocab_size,
      bytes_per_token=held_out_bytes / held_out_tokens.size,
      training_windows=train_windows,
      held_out_windows=held_out_windows,
      seed=data.seed,
  )


def _documents(data: config.Data) -> tuple[corpus_lib.Corpus, _Parts]:
  """The corpus, and what of it is for training and what is held out."""
  if data.source in ('python-stdlib', 'files'):
    corpus = corpus_lib.read(data.source, data.files)
    return corpus, corpus_lib.split(corpus, data.eval_fraction)
  found = datasets.read(data.source, data.data_dir)
  if 'text' not in found.features:
    raise ValueError(
        f'{found.name} must hold texts for a language model, got'
        f' {", ".join(found.features)}: choose another model.name.'
    )
  texts = lambda split: (example['text'] for example in split)
  corpus = corpus_lib.of_texts(found.name, texts(found.train), data.max_bytes)
  if found.held_out is None:
    return corpus, corpus_lib.split(corpus, data.eval_fraction)
  held_out = corpus_lib.of_texts(found.name, texts(found.held_out))
  whole = corpus_lib.Corpus(found.name, corpus.documents + held_out.documents)
  return whole, (corpus.documents, held_out.documents)


def _tokens(
    documents: Iterable[corpus_lib.Document], tokenizer: tokenizers.Tokenizer
) -> np.ndarray:
  """Ids of all documents, each followed by the end of text -> [tokens]."""
  dtype = tokenizers.id_type(tokenizer.vocab_size)
  end = tokenizer.end_of_text
  mark = np.array([] if end is None else [end], dtype)
  # The empty array is there for no documents at all.
  parts = [np.array([], dtype)]
  for document in documents:
    parts += [tokenizer.encode(document.text), mark]
  return np.concatenate(parts)


def _windows(tokens: np.ndarray, length: int) -> np.ndarray:
  """[tokens] -> view [windows, length + 1]; an incomplete last one is cut."""
  count = tokens.size // (length + 1)
  return tokens[: count * (length + 1)].reshape(count, length + 1)


def _require_windows(
    windows: np.ndarray, needed: int, part: str, reason: str
) -> None:
  count, size = windows.shape
  if count < needed:
    raise ValueError(
        f'The {part} text has {count} windows of data.sequence_length + 1 ='
        f' {size} tokens, {reason} needs {needed}: use more text, shorter'
        ' sequences or fewer of them, or another data.eval_fraction.'
    )
