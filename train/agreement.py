"""All processes of a run hold the same, or say what differs and where."""

import hashlib
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from train import differences

_SHOWN = 4


def check(**things: Any) -> None:
  """Raises unless every process passes the same.

  One collective of 32 bytes, a hash; only if they differ, another one of the
  things themselves.

  Args:
    **things: what JSON can hold; in dicts the order counts, too.

  Raises:
    ValueError: on every process, naming what differs on which process.
  """
  if jax.process_count() == 1:
    return
  things = {key: _with_order(value) for key, value in things.items()}
  text = json.dumps(things).encode()
  if _all_equal(np.frombuffer(hashlib.sha256(text).digest(), np.uint8)):
    return
  first, *others = [json.loads(text) for text in _gather_bytes(text)]
  found = [
      f'{key} is {there!r} on process {i} and {here!r} on process 0'
      for i, other in enumerate(others, 1)
      for key, (here, there) in differences.between(first, other).items()
  ]
  more = f'; and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
  raise ValueError(
      f'the processes of this run differ: {"; ".join(found[:_SHOWN])}{more}.'
      ' Start all with one command, one code and one copy of the data, on'
      ' machines of one kind.'
  )


def _with_order(value: Any) -> Any:
  """A dict of numbers with the order of its keys as one more entry."""
  return value | {'order': [*value]} if isinstance(value, dict) else value


def _all_equal(row: np.ndarray) -> bool:
  rows = multihost_utils.process_allgather(row)
  return bool((rows == rows[0]).all())


def _gather_bytes(mine: bytes) -> list[bytes]:
  """The bytes of every process, of whatever lengths."""
  sizes = multihost_utils.process_allgather(np.array(len(mine), np.int32))
  row = np.zeros(sizes.max(), np.uint8)
  row[: len(mine)] = np.frombuffer(mine, np.uint8)
  rows = multihost_utils.process_allgather(row)
  return [bytes(r[:n]) for r, n in zip(rows, sizes, strict=True)]
