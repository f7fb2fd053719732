"""Labeled sentences and pairs of sentences: GLUE and its like."""

import dataclasses
import hashlib

import grain
import numpy as np

from train.config.schema import Data
from train.data import batches, datasets, tokenizers

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceData:
  """Training and held-out examples, tokenized.

  A batch holds tokens, int32 [rows, sequence_length], filled up with zeros;
  segments, int32 of the same shape: 1 in a second sentence, else 0; length,
  int32 [rows], of what is not filling; and label, [rows]: int32, or float32
  for a score.
  """

  description: dict[str, str | int]
  """Identifies the data, for JSON: corpus, sha256 (of the training part),
  tokenizer, sequence_length, train_examples, held_out_examples, classes."""
  vocab_size: int
  """Token ids are below this."""
  classes: int
  """Labels are below this; 0 for a score."""
  training: Batch
  held_out: Batch
  seed: int
  """Of the order of training."""

  def train(
    self, batch_size: int, process_index: int = 0, process_count: int = 1
  ) -> grain.DatasetIterator:
    """Endless batches, see `batches.endless`.

    They hold noise, too, uint32 [rows]: another number whenever an example
    comes again.

    Raises:
      ValueError: process_count does not divide batch_size.
    """

    def read(indices, uniform):
      batch = {key: x[indices] for key, x in self.training.items()}
      return batch | {'noise': (uniform[:, 0] * 2**32).astype(np.uint32)}

    return batches.endless(
      len(self.training['label']),
      read,
      batch_size,
      seed=self.seed,
      process_index=process_index,
      process_count=process_count,
      columns=1,
    )

  def evaluation(self, examples: int) -> Batch:
    """Held-out examples, always the same ones; 0 is all of them.

    Raises:
      ValueError: there are fewer.
    """
    count = len(self.held_out['label'])
    chosen = batches.held_out(count, examples, 'examples')
    return {key: x[chosen] for key, x in self.held_out.items()}


def load(data: Data) -> SentenceData:
  """The sentences that a configuration asks for, in memory.

  Raises:
    ValueError: there is no such data set, it holds no labeled sentences, or
      data.tokenizer does not encode pairs.
    ImportError: the library that reads it is not installed.
  """
  found = datasets.read(data.source, data.data_dir)
  columns = next(
    (x for x in datasets.SENTENCES if {*x} <= {*found.features}), None
  )
  if columns is None or 'label' not in found.features:
    raise ValueError(
      f'{found.name} must hold sentences with labels, got'
      f' {", ".join(found.features)}: choose another model.name.'
    )
  tokenizer = tokenizers.load(data.tokenizer)
  if not isinstance(tokenizer, tokenizers.HuggingFace):
    raise ValueError(
      'data.tokenizer must be the path of a Hugging Face tokenizer.json, for'
      f' sentences with its special tokens, got {data.tokenizer!r}.'
    )
  classes = found.classes() or 0
  encode = lambda split: _examples(
    split, columns, tokenizer, data.sequence_length, is_score=not classes
  )
  training = encode(found.train)
  if found.held_out is not None:
    data.only_for('data without a held-out part of its own', 'eval_fraction')
    held_out = encode(found.held_out)
  else:
    chosen = batches.divided(len(training['label']), data.eval_fraction)
    training, held_out = (
      {key: x[indices] for key, x in training.items()} for indices in chosen
    )
  sizes = len(training['label']), len(held_out['label'])
  batches.check_parts(found.name, 'sentences', *sizes)
  digest = hashlib.sha256()
  for array in training.values():
    digest.update(array.tobytes())
  return SentenceData(
    description={
      'corpus': found.name,
      'sha256': digest.hexdigest()[:16],
      'tokenizer': tokenizer.name,
      'sequence_length': data.sequence_length,
      'train_examples': sizes[0],
      'held_out_examples': sizes[1],
      'classes': classes,
    },
    vocab_size=tokenizer.vocab_size,
    classes=classes,
    training=training,
    held_out=held_out,
    seed=data.seed,
  )


def _examples(
  split: datasets.Split,
  columns: tuple[str, ...],
  tokenizer: tokenizers.HuggingFace,
  length: int,
  is_score: bool,
) -> Batch:
  """All examples of a part, cut to `length` tokens."""
  texts, labels = [], []
  for i, example in enumerate(split):
    try:
      text = tuple(example[column].decode('utf-8') for column in columns)
    except UnicodeDecodeError as error:
      raise ValueError(
        f'Example {i} of {split.name} must be UTF-8 text, but is not'
        f' ({error}): prepare the data set again from UTF-8.'
      ) from error
    texts.append(text)
    labels.append(example['label'])
  label = np.array(labels, np.float32 if is_score else np.int32)
  return encoded(texts, tokenizer, length) | {'label': label}


def encoded(
  texts: list[tuple[str, ...]], tokenizer: tokenizers.HuggingFace, length: int
) -> Batch:
  """Sentences or pairs, cut to `length` tokens, as `SentenceData` has them."""
  tokens = np.zeros((len(texts), length), np.int32)
  segments = np.zeros_like(tokens)
  lengths = np.zeros(len(texts), np.int32)
  for i, text in enumerate(texts):
    ids, kinds = tokenizer.encode_with_marks(*text, length=length)
    tokens[i, : len(ids)], segments[i, : len(ids)] = ids, kinds
    lengths[i] = len(ids)
  return {'tokens': tokens, 'segments': segments, 'length': lengths}
