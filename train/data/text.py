"""Documents to token windows, and windows to batches of any worker count."""

import dataclasses
import glob
import os
import pathlib
import re
from typing import Any

import grain
import numpy as np

from train import config
from train.data import batches
from train.data import corpus as corpus_lib
from train.data import datasets
from train.data import streams
from train.data import tokenizers
from train.data import windows as windows_lib

_Documents = tuple[corpus_lib.Document, ...]
# Training and held-out ones.
_Parts = tuple[_Documents, _Documents]


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
  """Training and held-out text as windows of `sequence_length` + 1 tokens.

  A window holds the inputs `window[:-1]` and the targets `window[1:]`. Windows
  do not overlap (those of data.stream may), run across document borders, and
  are the same on every process.
  """

  description: dict[str, Any]
  """What the data are, fit for JSON: corpus, bytes, sha256, tokenizer,
  vocab_size, sequence_length, train_tokens (of data.stream train_documents),
  held_out_tokens, held_out of further texts. Losses compare only between runs
  where all of these are equal."""
  vocab_size: int
  """Token ids are below this."""
  training_windows: np.ndarray | streams.Windows
  """[windows, length + 1], in the smallest sufficient unsigned type."""
  held_out: tuple[windows_lib.HeldOut, ...]
  """First that of the same corpus."""
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
    windows_lib.require(windows, batch_size, 'training', 'one batch')
    in_memory = isinstance(windows, np.ndarray)
    return batches.endless(
        len(windows),
        lambda indices, _: windows[indices].astype(np.int32),
        batch_size, self.seed, process_index, process_count,
        options=batches.IN_MEMORY if in_memory else batches.FROM_DISK,
    )  # fmt: skip


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
    >>> text.vocab_size, text.held_out[0].bytes_per_token
    (256, 1.0)
    >>> text.held_out[0].take(2).shape
    (2, 9)
  """
  tokenizer = tokenizers.load(data.tokenizer)
  size = data.sequence_length + 1
  of_corpus = _streamed if data.stream else _in_memory
  told, train_windows, documents = of_corpus(data, tokenizer, size)
  windows_lib.require(train_windows, 1, 'training', 'a run')
  own = windows_lib.held_out('', documents, tokenizer, size)
  others = [_other(name, data, tokenizer, size) for name in data.held_out]
  if len({x.name for x in others}) < len(others):
    raise ValueError(
        'data.held_out must name texts whose names differ, got'
        f' {", ".join(x.name for x in others)}.'
    )
  told |= {
      'tokenizer': tokenizer.name,
      'vocab_size': tokenizer.vocab_size,
      'sequence_length': data.sequence_length,
      'held_out_tokens': own.tokens,
  }
  if others:
    told['held_out'] = {x.name: x.sha256 for x in others}
  return TextData(
      description=told,
      vocab_size=tokenizer.vocab_size,
      training_windows=train_windows,
      held_out=(own, *others),
      seed=data.seed,
  )


def _in_memory(
    data: config.Data, tokenizer: tokenizers.Tokenizer, size: int
) -> tuple[dict[str, Any], np.ndarray, _Documents]:
  """What the corpus is, windows of its training part, and what is held out."""
  corpus, (train, held_out) = _documents(data)
  tokens = windows_lib.tokens_of(train, tokenizer)
  told = {
      'corpus': corpus.name,
      'bytes': corpus.num_bytes,
      'sha256': corpus.sha256,
      'train_tokens': tokens.size,
  }
  return told, windows_lib.cut(tokens, size), held_out


def _streamed(
    data: config.Data, tokenizer: tokenizers.Tokenizer, size: int
) -> tuple[dict[str, Any], streams.Windows, _Documents]:
  """The same of a data set of which only the held-out part is read."""
  found = _data_set(data.source, data.data_dir)
  if found.held_out is None:
    raise ValueError(
        f'{found.name} must have a part to evaluate on for data.stream, got'
        ' none: leave data.stream out, and set data.max_bytes.'
    )
  windows = streams.Windows(found.train, tokenizer, size)
  held_out = _corpus(found.name, found.held_out, data.max_bytes)
  told = {
      'corpus': found.name,
      'sha256': windows.fingerprint(),
      'held_out_sha256': held_out.sha256,
      'train_documents': len(windows),
  }
  return told, windows, held_out.documents


def _documents(data: config.Data) -> tuple[corpus_lib.Corpus, _Parts]:
  """The corpus, and what of it is for training and what is held out."""
  if data.source in ('python-stdlib', 'files'):
    corpus = corpus_lib.read(data.source, data.files)
    return corpus, corpus_lib.split(corpus, data.eval_fraction)
  found = _data_set(data.source, data.data_dir)
  corpus = _corpus(found.name, found.train, data.max_bytes)
  if found.held_out is None:
    return corpus, corpus_lib.split(corpus, data.eval_fraction)
  data.only_for('data without a held-out part of its own', 'eval_fraction')
  held_out = _corpus(found.name, found.held_out, data.max_bytes)
  whole = corpus_lib.Corpus(found.name, corpus.documents + held_out.documents)
  return whole, (corpus.documents, held_out.documents)


def _data_set(name: str, data_dir: str) -> datasets.DataSet:
  """A data set of texts."""
  found = datasets.read(name, data_dir)
  if 'text' not in found.features:
    raise ValueError(
        f'{found.name} must hold texts for a language model, got'
        f' {", ".join(found.features)}: choose another model.name.'
    )
  return found


def _corpus(
    name: str, split: datasets.Split, max_bytes: int
) -> corpus_lib.Corpus:
  texts = (example['text'] for example in split)
  return corpus_lib.of_texts(name, texts, max_bytes)


def _other(
    source: str, data: config.Data, tokenizer: tokenizers.Tokenizer, size: int
) -> windows_lib.HeldOut:
  """Further text to score on: files, or the held-out part of a data set."""
  if glob.glob(os.path.expanduser(source), recursive=True):
    corpus = corpus_lib.read('files', [source])
    name = pathlib.PurePath(source).stem
  else:
    try:
      found = _data_set(source, data.data_dir)
    except ValueError as error:
      raise ValueError(
          f'data.held_out must name text files or data sets; {source!r} is no'
          f' file, and as the other: {error}'
      ) from error
    split = found.held_out or found.train
    corpus, name = _corpus(found.name, split, data.max_bytes), source
  name = re.sub(r'\W+', '_', name).strip('_')
  return windows_lib.held_out(name, corpus.documents, tokenizer, size)
