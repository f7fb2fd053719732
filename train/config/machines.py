"""Devices and processes: the sections of a configuration on where it runs."""

import dataclasses

from train.config.section import Section

# The axes of the mesh, in their order: neighbors share the fastest links.
REPLICA, FSDP, TENSOR = 'replica', 'fsdp', 'tensor'
_MTLS = 'mtls_cert_file', 'mtls_key_file', 'mtls_ca_file'
_PREFIX = 'mtls_peer_uri_prefix'


@dataclasses.dataclass(frozen=True)
class Mesh(Section):
  """The workers that share the batch, and the devices of each."""

  replica: int = 0
  """Number of data-parallel workers, which exchange compressed gradients. 0
  uses all devices; on a CPU, a number above that of the devices creates virtual
  devices."""
  fsdp: int = 1
  """Devices of a worker that share its part of the batch and over which its
  parameters, moments and errors are sharded."""
  tensor: int = 1
  """Devices that share every matrix product, for each of mesh.fsdp."""

  def _check(self) -> None:
    self._at_least(0, 'replica')
    self._at_least(1, 'fsdp', 'tensor')


@dataclasses.dataclass(frozen=True)
class Distributed(Section):
  """Several processes; unset where JAX detects the cluster."""

  coordinator: str | None = None
  """HOST:PORT of process 0."""
  num_processes: int | None = None
  """Number of processes."""
  process_id: int | None = None
  """Index of this process, from 0."""
  bind: str | None = None
  """Address on which process 0 listens; None is the coordinator's address."""
  start_timeout: int = 300
  """Seconds that the processes wait for each other at the start of the run."""
  heartbeat_timeout: int = 60
  """Seconds without a heartbeat after which a process counts as lost."""
  stall_timeout: int = 3600
  """Seconds without progress (a step, a batch of an evaluation, a checkpoint)
  after which a process ends itself; 0 is no limit. Raise it if a step, or
  reading the data, takes longer."""

  min_processes: int | None = None
  """Set by train.launch --elastic: the fewest processes that may resume the
  run. None is any."""
  mtls_cert_file: str | None = None
  """PEM file with the certificate of this process. With the key and the CA, the
  coordinator and the other processes authenticate each other, and their
  connection is encrypted. Collectives are not protected. Needs jax 0.11 or
  newer."""
  mtls_key_file: str | None = None
  """PEM file with the private key of distributed.mtls_cert_file."""
  mtls_ca_file: str | None = None
  """PEM file with the authorities that signed the others' certificates."""
  mtls_peer_uri_prefix: str | None = None
  """What a URI in the certificate of the others must begin with,
  'spiffe://example.org/'. None checks the coordinator's certificate against its
  address."""

  @property
  def mtls(self) -> dict[str, str]:
    """The keys of mutual TLS that are set, as `jax.distributed` names them."""
    found = {name: getattr(self, name) for name in (*_MTLS, _PREFIX)}
    return {name: x for name, x in found.items() if x is not None}

  def _check(self) -> None:
    self._at_least(1, 'num_processes', 'start_timeout', 'heartbeat_timeout')
    self._at_least(1, 'min_processes')
    self._check_mtls()
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

  def _check_mtls(self) -> None:
    missing = [name for name in _MTLS if name not in self.mtls]
    if self.mtls and missing:
      raise ValueError(
        f'distributed.{", .".join(_MTLS)} go together, got no'
        f' {", ".join(missing)}.'
      )
    # Without the slash it would also allow spiffe://example.org.evil/.
    is_prefix = lambda x: x.endswith('/')
    self._require(is_prefix, "a prefix that ends with '/'", _PREFIX)
