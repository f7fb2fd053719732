"""Snapshots on a disk that belongs to one process.

STEP/arrays has the bytes of all arrays, one after the other, and
STEP/notes.json what they are, their checksums, and further notes. Both are
written in the background into a folder that gets its name, which is the step,
when it is complete.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from train.config import differences
from train.distributed import fingerprint
from train.run import json_files

_ARRAYS, _NOTES, _PARTIAL = 'arrays', 'notes.json', '.partial'
Arrays = dict[str, np.ndarray]
Notes = dict[str, Any]


class OwnFiles:
  """The snapshots in a folder that only this process uses."""

  def __init__(self, folder: pathlib.Path, keep: int):
    """Opens a folder in which that many snapshots stay."""
    self.folder, self._keep = folder.absolute(), keep
    self._thread = futures.ThreadPoolExecutor(1)
    self._pending: futures.Future[None] | None = None
    with json_files.writing(folder):
      folder.mkdir(parents=True, exist_ok=True)
      for left in folder.glob(f'*{_PARTIAL}'):  # A write that was cut off.
        shutil.rmtree(left)

  def steps(self) -> list[int]:
    """The steps after which there is a complete snapshot, in order."""
    return sorted(int(x) for x in os.listdir(self.folder) if x.isdecimal())

  def write(self, step: int, arrays: Arrays, notes: Notes) -> None:
    """Starts writing arrays, which must not change, and notes.

    Raises:
      OSError: if an earlier snapshot could not be written.
    """
    self.wait()
    self._pending = self._thread.submit(self._write, step, arrays, notes)

  def wait(self) -> None:
    """Returns when everything is on disk.

    Raises:
      OSError: if that could not be written; earlier snapshots are complete.
    """
    pending, self._pending = self._pending, None
    if pending:
      pending.result()

  def _write(self, step: int, arrays: Arrays, notes: Notes) -> None:
    folder = self.folder / str(step)
    partial = folder.with_name(f'{step}{_PARTIAL}')
    said = notes | {'arrays': _described(arrays)}
    said['checksums'] = fingerprint.of_own(arrays) | _sum_of(said)
    with json_files.writing(folder):
      partial.mkdir()
      with (partial / _ARRAYS).open('wb') as file:
        for x in arrays.values():
          file.write(_bytes(x))
        _flush(file.fileno())
      with (partial / _NOTES).open('wb') as file:
        file.write(json_files.dumps(said).encode())
        _flush(file.fileno())
      os.replace(partial, folder)
      here = os.open(self.folder, os.O_RDONLY)
      _flush(here)
      os.close(here)
      for old in self.steps()[: -self._keep]:
        self.delete(old)

  def notes(self, step: int) -> Notes:
    """What was noted with a snapshot.

    Raises:
      ValueError: if that is damaged.
    """
    with self._reading(step, _NOTES):
      text = (self.folder / str(step) / _NOTES).read_text(encoding='utf-8')
      found = json.loads(text)
      sums = found['checksums']
      rest = {key: x for key, x in found.items() if key != 'checksums'}
      _check(_sum_of(rest), {_NOTES: sums[_NOTES]})
      return found

  def arrays(self, step: int, like: Arrays) -> Arrays:
    """The arrays of a snapshot, which must be of the kind of others.

    Raises:
      ValueError: if they are of another kind, or damaged.
    """
    notes = self.notes(step)
    with self._reading(step, _ARRAYS):
      _check(_described(like), notes['arrays'])
      path = self.folder / str(step) / _ARRAYS
      size, expected = path.stat().st_size, sum(x.nbytes for x in like.values())
      if size != expected:
        raise ValueError(f'{size} bytes instead of {expected}')
      with path.open('rb') as file:
        found = {
          name: np.frombuffer(file.read(x.nbytes), x.dtype).reshape(x.shape)
          for name, x in like.items()
        }
      sums = notes['checksums']
      _check(fingerprint.of_own(found), {name: sums[name] for name in found})
      return found

  def delete(self, step: int) -> None:
    """Deletes a snapshot, so that no part of it remains under its name."""
    folder = self.folder / str(step)
    partial = folder.with_name(f'{step}{_PARTIAL}')
    with json_files.writing(folder):
      os.replace(folder, partial)
      shutil.rmtree(partial)

  @contextlib.contextmanager
  def _reading(self, step: int, part: str) -> Iterator[None]:
    path = self.folder / str(step)
    try:
      yield
    except Exception as error:
      raise ValueError(
        f'{path} is damaged ({part}: {error}). Delete it to resume from what'
        ' the other processes have, or put back a copy of it.'
      ) from error


def _described(arrays: Arrays) -> dict[str, str]:
  """Dtypes and shapes: 'float32[3, 4]'."""
  return {name: f'{x.dtype}{[*x.shape]}' for name, x in arrays.items()}


def _sum_of(notes: Notes) -> dict[str, Any]:
  return {_NOTES: fingerprint.of_text(json.dumps(notes, sort_keys=True))}


def _check(now: Any, saved: Any) -> None:
  """Raises a ValueError that names what is not as it was written."""
  if differing := differences.between(now, saved):
    raise ValueError(f'not as it was written: {", ".join(differing)}')


def _bytes(x: np.ndarray) -> memoryview:
  return np.ascontiguousarray(x).reshape(-1).view(np.uint8).data


def _flush(file: int) -> None:
  """Waits until the disk has it, so that a power cut does not matter."""
  os.fsync(file)
