"""CRC-32 checksums of arrays, for any sharding and number of processes.

An array that every process holds has one checksum, that of its bytes in C
order. An array that is sharded over several processes has one for each shard. A
piece is named by its slices, '0:4,8:16', and a whole array by 'whole'.
"""

from concurrent import futures
from typing import Any
import zlib

import jax
from jax.experimental import multihost_utils
import numpy as np

_WHOLE = 'whole'
# {path of an array: {piece: checksum}}
Fingerprint = dict[str, dict[str, int]]


def of(tree: Any, pieces: Fingerprint | None = None) -> Fingerprint:
  """The checksums of all arrays of a tree, in the order of its leaves.

  Every process calls it. A process reports the checksums of its own copies, and
  those of other processes for pieces of which it has no copy.

  `pieces` is an earlier result that says which pieces to take; by default they
  are those of the present sharding. If the shards have changed since then, all
  processes gather each piece, one at a time.
  """
  jax.block_until_ready(tree)
  found = named(tree)
  wanted = [
    (name, piece)
    for name, array in found.items()
    for piece in (pieces or {}).get(name) or _pieces(array)
  ]
  with futures.ThreadPoolExecutor() as pool:  # zlib releases Python's lock.
    own = list(pool.map(lambda x: _own(found[x[0]], x[1]), wanted))
  marks = _shared(own, [found[name] for name, _ in wanted], wanted)
  fingerprint: Fingerprint = {name: {} for name in found}
  for (name, piece), mark in zip(wanted, marks, strict=True):
    fingerprint[name][piece] = mark
  return fingerprint


def of_own(arrays: dict[str, np.ndarray]) -> dict[str, int]:
  """The checksums of this process's arrays, without asking other processes."""
  with futures.ThreadPoolExecutor() as pool:
    return dict(zip(arrays, pool.map(_crc, arrays.values()), strict=True))


def of_text(text: str) -> int:
  """The checksum of a text in UTF-8."""
  return zlib.crc32(text.encode())


def named(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by their names."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='.')
  return {name(path): leaf for path, leaf in leaves}


def _is_here(array: Any) -> bool:
  """Whether every process holds all of it."""
  return (
    not isinstance(array, jax.Array)
    or array.is_fully_addressable
    or array.is_fully_replicated
  )


def _pieces(array: Any) -> list[str]:
  """The pieces of an array that have a checksum each; equal everywhere."""
  if _is_here(array):
    return [_WHOLE]
  shards = array.sharding.devices_indices_map(array.shape).values()
  return [*dict.fromkeys(_text(shard, array.shape) for shard in shards)]


def _own(array: Any, piece: str) -> int | None:
  """The checksum of a piece, if this process holds it."""
  if _is_here(array):
    return _crc(np.asarray(array)[_slices(piece)])
  for shard in array.addressable_shards:
    if _text(shard.index, array.shape) == piece:
      return _crc(np.asarray(shard.data))
  return None


def _shared(
  own: list[int | None], arrays: list[Any], wanted: list[tuple[str, str]]
) -> list[int]:
  """The checksums with those of other processes where this one has none."""
  if jax.process_count() == 1:
    return [0 if mark is None else mark for mark in own]
  known = np.array([mark is not None for mark in own])
  marks = np.array([mark or 0 for mark in own], np.uint32)
  everywhere = multihost_utils.process_allgather((known, marks))
  all_known, all_marks = map(np.asarray, everywhere)
  holder = np.argmax(all_known, axis=0)
  found = []
  for i, mark in enumerate(own):
    if mark is None and all_known[:, i].any():
      mark = int(all_marks[holder[i], i])
    if mark is None:
      mark = _crc(_gathered(arrays[i], wanted[i][1]))
    found.append(mark)
  return found


def _gathered(array: jax.Array, piece: str) -> np.ndarray:
  """A piece of which no process holds all."""
  assert isinstance(array.sharding, jax.sharding.NamedSharding)
  replicated = jax.sharding.NamedSharding(
    array.sharding.mesh, jax.sharding.PartitionSpec()
  )
  take = jax.jit(lambda x: x[_slices(piece)], out_shardings=replicated)
  return np.asarray(take(array))


def _crc(array: np.ndarray) -> int:
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return zlib.crc32(data.data)


def _text(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
  """Slices as '0:4,8:16'."""
  bounds = (s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
  return ','.join(f'{start}:{stop}' for start, stop in bounds) or _WHOLE


def _slices(piece: str) -> tuple[slice, ...]:
  """From '0:4,8:16' to slices; a ValueError for anything else."""
  if piece == _WHOLE:
    return ()
  bounds = (map(int, part.split(':')) for part in piece.split(','))
  return tuple(slice(start, stop) for start, stop in bounds)
