"""The processes and devices of a run, and the mesh over them."""

import contextlib

import jax
import numpy as np

from train import config

# Every worker holds the parameters and its share of each batch.
WORKER_AXIS = 'replica'


def start(run: config.Config) -> jax.sharding.Mesh:
  """Joins the other processes, if any, and lays the mesh over the devices.

  To be called before JAX touches a device: on CPU, more workers than there are
  devices become virtual ones.

  Raises:
    ValueError: if there are too few devices for mesh.replica.
  """
  distributed = run.distributed
  if distributed.coordinator:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  processes = distributed.num_processes or 1
  if run.mesh.replica % processes:
    raise ValueError(
        f'mesh.replica must be a multiple of the {processes} processes, got'
        f' {run.mesh.replica}.'
    )
  if run.mesh.replica:
    _request_cpu_devices(run.mesh.replica // processes)
  if distributed.coordinator:
    jax.distributed.initialize(
        distributed.coordinator, processes, distributed.process_id
    )
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
  return jax.sharding.Mesh(np.array(devices[:workers]), (WORKER_AXIS,))


def _request_cpu_devices(count: int) -> None:
  """Makes virtual devices, unless JAX has started with what there is."""
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', count)


def is_main() -> bool:
  """Whether this process speaks for all: it prints and writes the files."""
  return jax.process_index() == 0


def divide(mesh: jax.sharding.Mesh, rows: np.ndarray) -> jax.Array:
  """This process's rows of a batch, divided over its workers."""
  spec = jax.sharding.PartitionSpec(WORKER_AXIS)
  return jax.make_array_from_process_local_data(
      jax.sharding.NamedSharding(mesh, spec), rows
  )
