"""Documents to token windows, and windows to batches of any worker count."""

import dataclasses
import glob
import os
import pathlib
import re
from typing import Any

import grain
import numpy as np

from train.config.schema import Data
from train.data import batches, datasets, streams, tokenizers
from train.data import corpus as corpus_lib
from train.data import files as files_lib
from train.data import windows as windows_lib

_Documents = tuple[corpus_lib.Document, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Own:
  """Training and held-out text of `data.source`."""

  description: dict[str, Any]
  training_windows: np.ndarray | streams.Windows
  training: _Documents
  """Empty for data.stream."""
  held_out: _Documents
  remarks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
  """Training and held-out text as windows of `sequence_length` + 1 tokens.

  A window holds the inputs `window[:-1]` and the targets `window[1:]`. Windows
  run across document borders and are the same on every process. They do not
  overlap, except those of data.stream.
  """

  description: dict[str, Any]
  """Identifies the data, for JSON: corpus, bytes, sha256, tokenizer,
  vocab_size, sequence_length, train_tokens (of data.stream train_documents),
  held_out_tokens, held_out (of further texts)."""
  vocab_size: int
  """Token ids are below this."""
  training_windows: np.ndarray | streams.Windows
  """[windows, length + 1], in the smallest sufficient unsigned type."""
  held_out: tuple[windows_lib.HeldOut, ...]
  """The first one belongs to the training text's own corpus."""
  remarks: tuple[str, ...]
  """Lines for people: text that is left out, or both held-out and training."""
  seed: int
  """Of the order of the training windows."""

  def train(
    self, batch_size: int, process_index: int = 0, process_count: int = 1
  ) -> grain.DatasetIterator:
    """Endless batches, int32 [batch_size / process_count, length + 1].

    Shuffled by data.seed; divided among processes as in `batches.endless`.

    Raises:
      ValueError: process_count does not divide batch_size, or there are fewer
        training windows than one batch needs.

    Example:
      >>> windows = load(Data(sequence_length=8)).train(batch_size=4)
      >>> next(windows).shape, windows.get_state()
      ((4, 9), {'next_index': 1})
    """
    windows = self.training_windows
    windows_lib.require(windows, batch_size, 'training', 'one batch')
    in_memory = isinstance(windows, np.ndarray)
    return batches.endless(
      len(windows),
      lambda indices, _: windows[indices].astype(np.int32),
      batch_size,
      seed=self.seed,
      process_index=process_index,
      process_count=process_count,
      options=batches.IN_MEMORY if in_memory else batches.FROM_DISK,
    )


def load(data: Data) -> TextData:
  """Reads, splits and tokenizes the text that a configuration asks for.

  Args:
    data: section `data` of the configuration.

  Raises:
    ValueError: the corpus or the tokenizer cannot be read, or the training or
      the held-out part is shorter than one window.
    ImportError: the tokenizer's library is not installed.

  Example:
    >>> text = load(Data(sequence_length=8))
    >>> text.vocab_size, text.held_out[0].bytes_per_token
    (256, 1.0)
    >>> text.held_out[0].take(2).shape
    (2, 9)
  """
  tokenizer = tokenizers.load(data.tokenizer)
  size = data.sequence_length + 1
  read = _streamed if data.stream else _in_memory
  own = read(data, tokenizer, size)
  windows_lib.require(own.training_windows, 1, 'training', 'a run')
  held_out = [windows_lib.held_out('', own.held_out, tokenizer, size)]
  remarks = [*own.remarks]
  for name, corpus in (_other(source, data) for source in data.held_out):
    remarks += [*_left_out(corpus), *_repeated(name, corpus, own.training)]
    documents = corpus.documents
    held_out.append(windows_lib.held_out(name, documents, tokenizer, size))
  names = [x.name for x in held_out[1:]]
  if len({*names}) < len(names):
    raise ValueError(
      'data.held_out must name texts whose names differ, got'
      f' {", ".join(names)}.'
    )
  description = own.description | {
    'tokenizer': tokenizer.name,
    'vocab_size': tokenizer.vocab_size,
    'sequence_length': data.sequence_length,
    'held_out_tokens': held_out[0].tokens,
  }
  if names:
    description['held_out'] = {x.name: x.sha256 for x in held_out[1:]}
  return TextData(
    description=description,
    vocab_size=tokenizer.vocab_size,
    training_windows=own.training_windows,
    held_out=tuple(held_out),
    remarks=tuple(remarks),
    seed=data.seed,
  )


def _in_memory(data: Data, tokenizer: tokenizers.Tokenizer, size: int) -> _Own:
  """All of a corpus."""
  held_out: _Documents | None = None
  if data.source in ('python-stdlib', 'files'):
    corpus = corpus_lib.read(data.source, data.files, data.text_field)
    remarks = _left_out(corpus)
  else:
    found = _data_set(data.source, data.data_dir)
    corpus = _corpus(found.name, found.train, data.max_bytes)
    remarks = _left_out(corpus)
    if found.held_out is not None:
      data.only_for('data without a held-out part of its own', 'eval_fraction')
      other = _corpus(found.name, found.held_out, data.max_bytes)
      training, held_out = corpus.documents, other.documents
      corpus = corpus_lib.Corpus(found.name, training + held_out)
      remarks += _left_out(other)
      remarks += _also_training(
        found.name, held_out, *corpus_lib.repeated(held_out, training)
      )
  if held_out is None:
    training, held_out = corpus_lib.split(corpus, data.eval_fraction)
  tokens = windows_lib.tokens_of(training, tokenizer)
  description = {
    'corpus': corpus.name,
    'bytes': corpus.num_bytes,
    'sha256': corpus.sha256,
    'train_tokens': tokens.size,
  }
  windows = windows_lib.cut(tokens, size)
  return _Own(description, windows, training, held_out, remarks)


def _streamed(data: Data, tokenizer: tokenizers.Tokenizer, size: int) -> _Own:
  """A data set of which only the held-out part is read."""
  found = _data_set(data.source, data.data_dir)
  if found.held_out is None:
    raise ValueError(
      f'{found.name} must have a part to evaluate on for data.stream, got'
      ' none: leave data.stream out, or prepare it under another name with'
      ' --eval_fraction 0.05 or --held_out FILES.'
    )
  windows = streams.Windows(found.train, tokenizer, size)
  held_out = _corpus(found.name, found.held_out, data.max_bytes)
  description = {
    'corpus': found.name,
    'sha256': windows.fingerprint(),
    'held_out_sha256': held_out.sha256,
    'train_documents': len(windows),
  }
  return _Own(description, windows, (), held_out.documents, _left_out(held_out))


def _left_out(corpus: corpus_lib.Corpus) -> tuple[str, ...]:
  if not corpus.left_out:
    return ()
  return (f'Left out of {corpus.name}: {", ".join(corpus.left_out)}.',)


def _repeated(
  name: str, corpus: corpus_lib.Corpus, training: _Documents
) -> tuple[str, ...]:
  """A warning if some of a held-out text is training text.

  Raises:
    ValueError: at least half of it is.
  """
  count, share = corpus_lib.repeated(corpus.documents, training)
  if share >= 0.5:
    raise ValueError(
      f'data.held_out must name text that is not trained on, but {share:.0%}'
      f' of {name} is also in the training text: remove it from one of the'
      ' two.'
    )
  return _also_training(name, corpus.documents, count, share)


def _also_training(
  name: str, held_out: _Documents, count: int, share: float
) -> tuple[str, ...]:
  if not count:
    return ()
  return (
    f'Warning: {count:,} of {len(held_out):,} held-out texts of {name}'
    f' ({100 * share:.2g} % of their bytes) are also training text.',
  )


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


def _other(source: str, data: Data) -> tuple[str, corpus_lib.Corpus]:
  """Further text to score on: files, or the held-out part of a data set."""
  if glob.glob(os.path.expanduser(source), recursive=True):
    corpus = corpus_lib.read('files', [source], data.text_field)
    path = pathlib.PurePath(files_lib.plain_name(source))
    names = path.stem, path.parent.name, 'files'  # The first may be '*'.
    name = next(x for x in names if _as_key(x))
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
  return _as_key(name), corpus


def _as_key(name: str) -> str:
  """A name as a part of the names of metrics."""
  return re.sub(r'\W+', '_', name).strip('_')
