"""The workers of a run: a mesh over its devices."""

import contextlib
from typing import Any

import jax
import numpy as np

from train import config
from train import processes

# Every worker holds the parameters and its share of each batch.
WORKER_AXIS = 'replica'


def start(run: config.Config) -> jax.sharding.Mesh:
  """Joins the other processes, if any, and lays the mesh over the devices.

  To be called before JAX touches a device: on CPU, more workers than there are
  devices become virtual ones.

  Raises:
    ValueError: if the coordinator cannot be had, or if there are too few
      devices for mesh.replica.
  """
  count = run.distributed.num_processes or 1
  if run.mesh.replica % count:
    raise ValueError(
        f'mesh.replica must be a multiple of the {count} processes, got'
        f' {run.mesh.replica}.'
    )
  found_cluster = processes.join(run.distributed)
  if run.mesh.replica and not found_cluster:
    _request_cpu_devices(run.mesh.replica // count)
  devices = jax.devices()
  workers = run.mesh.replica or len(devices)
  if workers > len(devices):
    raise ValueError(
        f'mesh.replica={workers} workers need as many devices, but JAX sees'
        f' {len(devices)} of kind {devices[0].platform}. Take fewer workers, or'
        ' JAX_PLATFORMS=cpu for virtual devices.'
    )
  if run.batch_size % (workers * run.accumulate_steps):
    raise ValueError(
        f'batch_size must be a multiple of {workers} workers x'
        f' {run.accumulate_steps} accumulate_steps, got {run.batch_size}.'
    )
  per_process = {
      i: sum(d.process_index == i for d in devices[:workers])
      for i in range(jax.process_count())
  }
  if len({*per_process.values()}) > 1:
    raise ValueError(
        'every process needs the same number of workers, got'
        f' {", ".join(f"{n} on process {i}" for i, n in per_process.items())}.'
    )
  return jax.sharding.Mesh(np.array(devices[:workers]), (WORKER_AXIS,))


def _request_cpu_devices(count: int) -> None:
  """Makes virtual devices, unless JAX has started with what there is."""
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', count)


def divide(mesh: jax.sharding.Mesh, batch: Any) -> Any:
  """This process's rows of a batch's arrays, divided over its workers."""
  spec = jax.sharding.PartitionSpec(WORKER_AXIS)
  place = jax.sharding.NamedSharding(mesh, spec)
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(place, x), batch
  )
