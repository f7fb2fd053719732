"""Checkpoints on the disks of several hosts that share none.

Each process saves what it holds to a folder of its own: the parameters and all
else that is equal on all workers, and what its own workers have for themselves,
their errors and inner optimizer states. Nothing is sent or averaged for it, so
a resumed run equals an undisturbed one bit by bit, whatever the method.

When a process begins to save, the copies before are complete everywhere. So
those that survive a loss have a copy of the same step, at most one behind the
newest. What the workers of a lost copy had for themselves is lost. Whoever
takes their place receives what is equal on all workers, and the mean of what
the others have for themselves.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config.schema import Config
from train.distributed import agreement, cluster, fingerprint
from train.run import checkpoint, own_files
from train.run.checkpoint import Progress, Snapshot

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
# {step: mark} of a process; marks are equal if all that workers share is.
Copies = dict[int, int]


def choose(copies: Sequence[Copies]) -> tuple[int, list[bool]]:
  """The step to resume after, and which processes have a copy of it.

  It is one of the two newest of the first process that has the newest copy of
  all: the one that more processes have, or else the newer one. Copies of other
  steps are older than what the others kept. Copies with another mark are of a
  course of the run that was given up.

  Example:
    >>> choose([{40: 7, 50: 8}, {40: 7}, {10: 3}])
    (40, [True, True, False])
  """
  newest = max((step for each in copies for step in each), default=0)
  if not newest:
    return 0, [False] * len(copies)
  lead = next(each for each in copies if newest in each)
  holds = {
    step: [each.get(step) == lead[step] for each in copies]
    for step in sorted(lead)[-2:]
  }
  step = max(holds, key=lambda x: (sum(holds[x]), x))
  return step, holds[step]


class LocalCopies:
  """The checkpoints of one run, of which every process keeps its part."""

  def __init__(
    self, config: Config, mesh: jax.sharding.Mesh, *, data: dict[str, Any]
  ):
    """Opens the folder of this process, `config.checkpoint.local`.

    Raises:
      ValueError: if a worker has devices of several processes, or the metadata
        of a copy are damaged.
    """
    count = jax.process_count()
    workers = mesh.shape[cluster.WORKER_AXIS]
    if workers % count:
      raise ValueError(
        'checkpoint.local needs all devices of a worker in one process, got'
        f' {workers} workers on {count} processes: use fewer devices per'
        ' worker (mesh.fsdp, mesh.tensor), or a shared work folder.'
      )
    self._mesh, self._workers = mesh, workers
    self._identity = checkpoint.described(config, data) | {
      'workers_per_process': workers // count
    }
    assert config.checkpoint.local
    with agreement.together():
      self._files = own_files.OwnFiles(
        pathlib.Path(config.checkpoint.local),
        # Of two copies, one is complete everywhere.
        max(config.checkpoint.keep, 2),
      )

  def save(self, now: Snapshot) -> Snapshot:
    """Starts saving and returns the same state.

    Raises:
      OSError: if this or an earlier copy could not be written here.
      ValueError: if an earlier copy could not be written by another process.
    """
    with agreement.together():
      self._files.wait()
    self._write(now)
    return now

  def _write(self, now: Snapshot) -> None:
    own = jax.tree.map(_own_part, _arrays(now))
    notes = now.notes(self._identity)
    self._files.write(now.step, fingerprint.named(own), notes)

  def latest(self, fresh: Snapshot) -> Snapshot:
    """The newest state that survived, for which `fresh` is freed, or `fresh`.

    Raises:
      ValueError: if a copy is damaged, or of another configuration or other
        data.
    """
    arrays = _arrays(fresh)
    places = {
      'params': jax.tree.map(lambda x: x.sharding, fresh.params),
      'opt_state': checkpoint.shardings(
        fresh.opt_state, fresh.params, self._mesh
      ),
    }
    shared = jax.tree.map(lambda x: not _is_per_worker(x), places)
    with agreement.together():
      saved = {step: self._noted(step) for step in self._files.steps()}
    marks = {
      step: _mark(x, fingerprint.named(shared)) for step, x in saved.items()
    }
    reports = [json.loads(x) for x in agreement.gather(json.dumps(marks))]
    copies = [{int(k): v for k, v in each.items()} for each in reports]
    step, holds = choose(copies)
    if not step:
      return fresh
    is_here, source = holds[jax.process_index()], holds.index(True)
    own = jax.tree.map(_own_part, arrays)
    with agreement.together():
      if is_here:
        found = self._files.arrays(step, fingerprint.named(own))
        own = jax.tree.unflatten(jax.tree.structure(own), found.values())
      # What is left would be of another course of the run.
      for other in saved:
        if other > step or not is_here:
          self._files.delete(other)
    noted = saved[step]['progress'] if is_here else {}
    noted = json.loads(agreement.gather(json.dumps(noted))[source])
    del noted['step']
    if all(holds):
      placed = jax.tree.map(_placed, own, places, arrays)
    else:
      placed = self._completed(own, places, shared, holds)
    now = Snapshot(
      step,
      placed['params'],
      placed['opt_state'],
      Progress(**noted),
      without_copy=tuple(
        int(worker)
        for worker, has_copy in enumerate(self._by_worker(holds))
        if not has_copy
      ),
    )
    checkpoint.free((fresh.params, fresh.opt_state))
    with agreement.together():
      if not is_here:
        self._write(now)
        self._files.wait()
    return now

  def _noted(self, step: int) -> dict[str, Any]:
    """The notes of a copy, which must be of this run."""
    notes = self._files.notes(step)
    checkpoint.check_identity(
      notes['identity'], self._identity, self._files.folder
    )
    was = notes['progress']['step']
    if was != step:
      raise ValueError(
        f'{self._files.folder / str(step)} must hold the state after step'
        f' {step}, got that after step {was}: give the folder its own name'
        ' back, or delete it.'
      )
    return notes

  def _by_worker(self, holds: list[bool]) -> np.ndarray:
    return np.repeat(np.array(holds), self._workers // len(holds))

  def _completed(
    self, own: Any, places: Any, shared: Any, holds: list[bool]
  ) -> Any:
    """The arrays on the mesh, for those without a copy from the others."""
    has = self._by_worker(holds)
    source = int(has.argmax())
    axis = cluster.WORKER_AXIS

    def rows(x: np.ndarray, place: Any, is_shared: bool) -> jax.Array:
      """One row for each worker."""
      if not is_shared:
        return jax.make_array_from_process_local_data(
          place, x, (self._workers, *x.shape[1:])
        )
      count = self._workers // jax.process_count()
      spec = jax.sharding.PartitionSpec(axis, *place.spec)
      return jax.make_array_from_process_local_data(
        jax.sharding.NamedSharding(self._mesh, spec),
        np.broadcast_to(x, (count, *x.shape)),
        (self._workers, *x.shape),
      )

    def complete(x: jax.Array, is_shared: bool) -> jax.Array:
      if is_shared:
        return _row(x, source)
      first = _row(x, source)
      others = first
      if jnp.issubdtype(x.dtype, jnp.floating):
        # Written so that the mean of equal rows is one of them, bit by bit.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        more = jnp.where(_like(has, x), x.astype(wide) - first.astype(wide), 0)
        mean = first.astype(wide) + jnp.sum(more, 0) / has.sum()
        others = mean.astype(x.dtype)
      return jnp.where(_like(has, x), x, others)

    given = jax.tree.map(rows, own, places, shared)
    return jax.jit(
      lambda given: jax.tree.map(complete, given, shared), out_shardings=places
    )(given)

  def __enter__(self) -> 'LocalCopies':
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Waits until everything is on disk."""
    if kind is None:
      self._files.wait()


def _arrays(now: Snapshot) -> dict[str, Any]:
  return {'params': now.params, 'opt_state': now.opt_state}


def _is_per_worker(place: jax.sharding.NamedSharding) -> bool:
  return bool(place.spec) and place.spec[0] == cluster.WORKER_AXIS


def _mark(notes: dict[str, Any], shared: dict[str, bool]) -> int:
  """Of all arrays that are equal on all workers."""
  sums = notes['checksums']
  found = {name: sums.get(name) for name, is_it in shared.items() if is_it}
  return fingerprint.of_text(json.dumps(found, sort_keys=True))


def _own_part(x: jax.Array) -> np.ndarray:
  """A copy of the part of an array that this process holds: a box."""
  shards = x.addressable_shards
  bounds = np.array(
    [
      [s.indices(n)[:2] for s, n in zip(shard.index, x.shape, strict=True)]
      for shard in shards
    ],
    int,
  ).reshape(len(shards), x.ndim, 2)
  start, stop = bounds[..., 0].min(0), bounds[..., 1].max(0)
  box = np.empty(tuple(stop - start), x.dtype)
  for shard, place in zip(shards, bounds, strict=True):
    where = tuple(slice(*pair) for pair in place - start[:, None])
    box[where] = np.asarray(shard.data)
  return box


def _placed(
  own: np.ndarray, place: jax.sharding.Sharding, like: jax.Array
) -> jax.Array:
  return jax.make_array_from_process_local_data(place, own, like.shape)


def _like(has: np.ndarray, x: jax.Array) -> np.ndarray:
  """One value per row, for all numbers of the row."""
  return has.reshape(-1, *[1] * (x.ndim - 1))


def _row(x: jax.Array, i: int) -> jax.Array:
  """A row as it is, bit by bit: sums over devices would turn -0 into 0."""
  if x.dtype == jnp.bool_:
    return x[i]
  bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize])
  return jax.lax.bitcast_convert_type(bits[i], x.dtype)
