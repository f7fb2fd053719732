"""What the processes of a run must have in common, and failing together.

All functions here are collectives: every process calls them in the same order.
With one process they cost nothing.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from train.config import differences
from train.config.schema import Config

_SHOWN = 4
# The only keys in which processes may differ: the identity of a process, and
# paths on its host. The files at these paths are compared by content.
_OWN = {
  '': ('workdir',),
  'distributed': (
    'coordinator',
    'process_id',
    'bind',
    'mtls_cert_file',
    'mtls_key_file',
    'mtls_ca_file',
  ),
  'data': ('data_dir', 'files', 'tokenizer', 'held_out'),
  'model': ('pretrained',),
}


def common(config: Config) -> dict[str, Any]:
  """The part of a configuration that must be equal on all processes.

  A key that is not compared could decide which collectives a process runs, and
  then the processes would deadlock. So every new key is compared.
  """
  fields = dataclasses.asdict(config)
  for section, names in _OWN.items():
    for name in names:
      del (fields[section] if section else fields)[name]
  # A path on each host, for all processes or for none.
  fields['checkpoint']['local'] = bool(fields['checkpoint']['local'])
  return fields


def check(**things: Any) -> None:
  """Raises unless every process passes the same values, which JSON can hold.

  Sends a hash of 32 bytes, and the values themselves only if the hashes differ.
  The order of the keys of a dict counts.

  Raises:
    ValueError: on every process, naming what differs on which process.
  """
  if jax.process_count() == 1:
    return
  things = {key: _with_order(value) for key, value in things.items()}
  text = json.dumps(things).encode()
  hashes = _rows(np.frombuffer(hashlib.sha256(text).digest(), np.uint8))
  if (hashes == hashes[0]).all():
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


def gather(text: str) -> list[str]:
  """The text that each process passes, by process."""
  if jax.process_count() == 1:
    return [text]
  return [x.decode() for x in _gather_bytes(text.encode())]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Raises on every process if the block, without collectives, raises on one.

  That process raises its own error, the others a ValueError that quotes it.
  """
  try:
    yield
  except (ValueError, OSError, ImportError) as error:
    gather(str(error) or type(error).__name__)
    raise
  for i, said in enumerate(gather('')):
    if said:
      raise ValueError(f'process {i} of this run stopped: {said}')


def _with_order(value: Any) -> Any:
  """A dict of numbers with the order of its keys as one more entry."""
  return value | {'order': [*value]} if isinstance(value, dict) else value


def _rows(row: np.ndarray) -> np.ndarray:
  """The row of every process, [processes, ...].

  Takes one device of each process, so processes with different numbers of
  devices can find out that they have.
  """
  first: dict[int, jax.Device] = {}
  for device in jax.devices():
    first.setdefault(device.process_index, device)
  mesh = jax.sharding.Mesh(np.array([first[i] for i in sorted(first)]), ('p',))
  spec = jax.sharding.PartitionSpec
  rows = multihost_utils.host_local_array_to_global_array(
    row[None], mesh, spec('p')
  )
  everywhere = jax.sharding.NamedSharding(mesh, spec())
  gathered = jax.jit(lambda x: x, out_shardings=everywhere)(rows)
  return np.asarray(gathered.addressable_data(0))


def _gather_bytes(mine: bytes) -> list[bytes]:
  """The bytes of every process, of any lengths."""
  sizes = _rows(np.array(len(mine), np.int32))
  row = np.zeros(max(sizes.max(), 1), np.uint8)
  row[: len(mine)] = np.frombuffer(mine, np.uint8)
  rows = _rows(row)
  return [bytes(r[:n]) for r, n in zip(rows, sizes, strict=True)]
