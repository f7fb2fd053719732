"""Sections of the configuration for devices and processes."""

import dataclasses

from train.config.section import Section

# The axes of the mesh, in their order: neighbours share the fastest links.
REPLICA, FSDP, TENSOR = 'replica', 'fsdp', 'tensor'


@dataclasses.dataclass(frozen=True)
class Mesh(Section):
  """The workers among whom the batch is divided, and the devices of each."""

  replica: int = 0
  """Data-parallel workers, which average compressed gradients. 0 takes all
  devices; on a CPU a number above that of the devices adds virtual ones."""
  fsdp: int = 1
  """Devices of a worker over which its part of the batch, its parameters,
  moments and errors are sharded."""
  tensor: int = 1
  """Devices of a worker that divide every matrix product, for each of
  mesh.fsdp."""

  def _check(self):
    self._at_least(0, 'replica')
    self._at_least(1, 'fsdp', 'tensor')


@dataclasses.dataclass(frozen=True)
class Distributed(Section):
  """Several processes; leave empty where JAX finds its cluster by itself."""

  coordinator: str | None = None
  """HOST:PORT of process 0."""
  num_processes: int | None = None
  """How many processes there are."""
  process_id: int | None = None
  """Which of them this is, from 0."""
  bind: str | None = None
  """Where process 0 listens; None is at the coordinator's address only."""
  start_timeout: int = 300
  """Seconds that the processes wait for each other at the start."""
  heartbeat_timeout: int = 60
  """Seconds without a sign of life after which a process counts as gone."""
  stall_timeout: int = 3600
  """Seconds without progress (a step, a batch of an evaluation, a checkpoint)
  after which a process ends itself, whatever it waits for; 0 is no limit. Raise
  it if a step, or reading the data, takes longer."""

  def _check(self):
    self._at_least(1, 'num_processes', 'start_timeout', 'heartbeat_timeout')
    self._at_least(0, 'stall_timeout')
    given = (self.coordinator, self.num_processes, self.process_id)
    if len({x is None for x in given}) > 1:
      raise ValueError(
        'distributed.coordinator, .num_processes and .process_id go together,'
        f' got {given}.'
      )
    self._at_least(0, 'process_id')
    if (self.process_id or 0) >= (self.num_processes or 1):
      raise ValueError(
        f'distributed.process_id must be below {self.num_processes}'
        f' (num_processes), got {self.process_id}.'
      )
