"""Endless batches of examples, the same for any number of processes."""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

# For what is in memory: a thread that prefetches would only add waiting.
IN_MEMORY = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
# For what has to be read and decoded: a few batches ahead.
FROM_DISK = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)

# From indices of examples, [rows], and uniform numbers in [0, 1) that belong to
# them, [rows, columns], to a batch: an array or a dict of arrays, [rows, ...].
Read = Callable[[np.ndarray, np.ndarray], Any]


def endless(
  count: int,
  read: Read,
  batch_size: int,
  *,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  columns: int = 0,
  options: grain.ReadOptions = IN_MEMORY,
) -> grain.DatasetIterator:
  """Batches of shuffled examples, read when they are needed.

  `seed` gives the order of the examples, which differs in each epoch; a batch
  may span two epochs. The examples of a step, and the uniform numbers for their
  augmentation, are the same for any number of processes: the concatenation of
  the processes' batches is the batch of a single process.

  The iterator's `get_state()` is a small dict for JSON. It is the same on all
  processes and for any number of them; `set_state` continues from it.

  Args:
    count: how many examples there are.
    read: makes a batch of this process's examples.
    batch_size: examples per step over all processes; process_count divides it.
    seed: of order and augmentation.
    process_index: this process, from 0.
    process_count: how many there are.
    columns: uniform numbers that `read` gets for each example.
    options: `IN_MEMORY` or `FROM_DISK`.

  Raises:
    ValueError: process_count does not divide batch_size.

  Example:
    >>> batches = endless(10, lambda indices, _: 2 * indices, 4, seed=0)
    >>> next(batches).shape, batches.get_state()
    ((4,), {'next_index': 1})
  """
  if batch_size % process_count:
    raise ValueError(
      'batch_size must be a multiple of the number of processes, got'
      f' batch_size={batch_size} and {process_count} processes.'
    )
  local_size = batch_size // process_count
  local = slice(process_index * local_size, (process_index + 1) * local_size)

  def of_this_process(indices, rng):
    uniform = rng.random((batch_size, columns))
    return read(indices[local], uniform[local])

  # Only indices are shuffled and batched; the examples are gathered at once.
  order = grain.MapDataset.range(count).seed(seed).shuffle()
  # There is no remainder to drop, but without it the length of a batched
  # endless dataset is rounded up as a float, beyond what len() can return.
  batches = order.repeat().batch(batch_size, drop_remainder=True)
  return iter(batches.random_map(of_this_process).to_iter_dataset(options))


def divided(count: int, eval_fraction: float) -> tuple[np.ndarray, np.ndarray]:
  """Indices of training and held-out examples, always the same ones."""
  order = np.random.default_rng(0).permutation(count)
  cut = round(eval_fraction * count)
  return order[cut:], order[:cut]


def check_parts(name: str, kind: str, training: int, held_out: int) -> None:
  """Raises a ValueError if one of the two parts has no examples."""
  if not training or not held_out:
    raise ValueError(
      f'{name} must have {kind} to train and to evaluate on, got {training} and'
      f' {held_out}: use another data.eval_fraction.'
    )


def held_out(count: int, wanted: int, of: str) -> np.ndarray:
  """Indices of `wanted` held-out examples to score on; 0 takes all of them.

  Raises:
    ValueError: there are fewer.
  """
  if wanted > count:
    raise ValueError(
      f'evaluation.sequences asks for {wanted} held-out {of}, but there are'
      f' {count}; 0 takes all of them.'
    )
  return spread(count, wanted or count)


def spread(count: int, wanted: int) -> np.ndarray:
  """Indices of `wanted` examples, evenly over all and always the same."""
  return np.arange(wanted) * count // wanted
