"""The workers of a run: a mesh over its devices."""

import contextlib
from typing import Any

import jax
import numpy as np

from train.config import machines
from train.config.schema import Config, Mesh
from train.distributed import agreement, processes

# Every worker holds the parameters and its share of each batch.
WORKER_AXIS = machines.REPLICA
# Rows of a batch are divided over the workers, and then over their devices.
_ROWS = jax.sharding.PartitionSpec((machines.REPLICA, machines.FSDP))


Devices = list[jax.Device]


def start(config: Config) -> jax.sharding.Mesh:
  """Joins the other processes, if any, and returns the mesh of the devices.

  Call it before JAX touches a device: on a CPU, it adds virtual devices.

  Raises:
    ValueError: if the coordinator does not answer, or if the devices do not fit
      the mesh.
  """
  inner = config.mesh.fsdp * config.mesh.tensor
  _devices_per_process(config.mesh, config.distributed.num_processes or 1)
  count = processes.join(config.distributed)
  if wanted := _devices_per_process(config.mesh, count):
    # Virtual devices, unless JAX has already started with those there are.
    with contextlib.suppress(RuntimeError):
      jax.config.update('jax_num_cpu_devices', wanted)
  # Processes with different configurations would make different meshes.
  agreement.check(config=agreement.common(config))
  # The rows of a batch are ordered by process, so the workers have to be, too.
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  workers = config.mesh.replica or len(devices) // inner
  devices = _enough(devices, config.mesh, max(workers, 1) * inner)
  _check_batch(config, workers)
  _check_processes(devices, config.mesh)
  shape = workers, config.mesh.fsdp, config.mesh.tensor
  axes = machines.REPLICA, machines.FSDP, machines.TENSOR
  return jax.sharding.Mesh(np.array(devices).reshape(shape), axes)


def _devices_per_process(mesh: Mesh, processes_count: int) -> int:
  """Devices that the mesh needs of each process; 0 is all there are."""
  wanted = mesh.replica * mesh.fsdp * mesh.tensor
  if wanted % processes_count:
    raise ValueError(
      'mesh.replica x fsdp x tensor must be a multiple of the'
      f' {processes_count} processes, got {_words(mesh)}.'
    )
  return wanted // processes_count


def _words(mesh: Mesh) -> str:
  return f'{mesh.replica} x {mesh.fsdp} x {mesh.tensor}'


def _enough(devices: Devices, mesh: Mesh, count: int) -> Devices:
  """The first `count` devices, if there are as many."""
  if count > len(devices):
    platform = devices[0].platform
    virtual = ', or set JAX_PLATFORMS=cpu to run on virtual devices'
    raise ValueError(
      f'mesh.replica x fsdp x tensor = {_words(mesh)} must be at most the'
      f' number of devices, but JAX sees {len(devices)} of kind {platform}:'
      f' use fewer workers{"" if platform == "cpu" else virtual}.'
    )
  return devices[:count]


def _check_batch(config: Config, workers: int) -> None:
  """Raises unless the batch divides over workers and their devices."""
  inner, accumulated = config.mesh.fsdp, config.accumulate_steps
  if config.batch_size % (workers * inner * accumulated):
    raise ValueError(
      f'batch_size must be a multiple of {workers} workers x {inner}'
      f' mesh.fsdp x {accumulated} accumulate_steps, got'
      f' {config.batch_size}.'
    )


def _check_processes(devices: Devices, mesh: Mesh) -> None:
  """Raises unless all processes have equal numbers of devices, in full rows."""
  per_process = {
    i: sum(d.process_index == i for d in devices)
    for i in range(jax.process_count())
  }
  if len({*per_process.values()}) > 1:
    raise ValueError(
      'every process needs the same number of devices in the mesh, got'
      f' {", ".join(f"{n} on process {i}" for i, n in per_process.items())}.'
    )
  if per_process[0] % mesh.tensor:
    raise ValueError(
      f'mesh.tensor={mesh.tensor} devices must be of one process, which has'
      f' {per_process[0]}.'
    )


def rows_on(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of the rows of a batch."""
  return jax.sharding.NamedSharding(mesh, _ROWS)


def divide(mesh: jax.sharding.Mesh, batch: Any) -> Any:
  """This process's rows of a batch's arrays, divided over its devices."""
  place = rows_on(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(place, x), batch
  )


def shardings(params: Any, specs: Any, mesh: jax.sharding.Mesh) -> Any:
  """PartitionSpecs of parameters, or of their shapes, on a mesh.

  Raises:
    ValueError: if a side does not divide over the devices.
  """

  def place(path, x, spec):
    sharding = jax.sharding.NamedSharding(mesh, spec)
    try:
      sharding.shard_shape(x.shape)
    except ValueError:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      raise ValueError(
        f'{name}, {" x ".join(map(str, x.shape))}, does not divide as {spec}'
        f' over a mesh of {dict(mesh.shape)}: change mesh.fsdp, mesh.tensor'
        " or the model's sizes."
      ) from None
    return sharding

  return jax.tree_util.tree_map_with_path(place, params, specs)
