"""`python -m train.launch CONFIG --num_processes N [--section.key VALUE ...]`.

Each line of output begins with the number of its process. When one process
fails, the launcher is killed, or nobody reads its output any more, all end.
With --elastic, the failure of a process makes all start again from the last
checkpoint: docs/faults.md.
"""

import dataclasses
import os
import pathlib
import socket
import sys
import threading

from train.config import command_line, exit_codes
from train.config.schema import Config
from train.distributed import crew, elastic, rendezvous
from train.run import paths

_PROG = 'python -m train.launch'
# Seconds the others may take to report what they saw of a failure; less where
# the run waits for it.
_GRACE, _SOON = 5.0, 1.0
_TOKEN, _SHORTEST = 'GREEDYLORE_TOKEN', 16
# The keys that depend on the number of processes.
_SHARES = ('mesh.replica', 'accumulate_steps')


@dataclasses.dataclass(frozen=True)
class Options(command_line.Options):
  """Runs all processes of a run on this machine."""

  config: str
  """A file of configs/, or FILE:VARIANT."""
  num_processes: int
  """How many processes share the workers of mesh.replica."""
  elastic: bool = False
  """When a process is lost, restart all processes from the last checkpoint."""
  min_processes: int | None = None
  """With --elastic: the fewest processes with which the run may resume while a
  process fails repeatedly. There are then fewer workers, and the batch size
  stays the same. None is num_processes."""
  max_restarts: int = 5
  """With --elastic: restarts in a row without a newer checkpoint, after which
  the launcher gives up."""
  rendezvous: str | None = None
  """With --elastic, on several hosts: HOST:PORT at which the launcher of host 0
  listens. Each host has a launcher with the same options, except for --host,
  and --num_processes processes; --min_processes counts those of all hosts."""
  hosts: int = 1
  """How many hosts meet at --rendezvous."""
  host: int = 0
  """Which of them this is, from 0."""
  token_file: str | None = None
  """A file with a secret that the launchers share; None is the environment
  variable GREEDYLORE_TOKEN."""

  def _check(self) -> None:
    self._at_least(1, 'num_processes', 'min_processes')
    self._at_least(0, 'max_restarts', 'host')
    self._at_least(1, 'hosts')
    self._at_most(self.num_processes * self.hosts, 'min_processes')
    self._below(self.hosts, 'host')
    if not self.elastic:
      self.only_for('--elastic', 'min_processes', 'max_restarts', 'rendezvous')
    if not self.rendezvous:
      self.only_for('--rendezvous', 'hosts', 'host', 'token_file')

  @property
  def all_processes(self) -> int:
    """Those of all hosts."""
    return self.num_processes * self.hosts


def main(argv: list[str]) -> int:
  """Runs the processes; returns the exit code of the first that failed."""
  try:
    options, overrides = command_line.read(argv, Options, _PROG)
    words = [options.config, *overrides]
    settings, name = command_line.parse(words, _PROG)
    _check_workers(settings, options.all_processes, options.elastic)
    sizes = _sizes(settings, options)
    meeting = _meeting(options)
  except exit_codes.UsageError as error:
    return exit_codes.fail(error)
  launcher = crew.Launcher(_SOON if options.elastic else _GRACE)
  launcher.listen()
  count, local = options.num_processes, settings.checkpoint.local
  if not options.elastic:
    stopping = lambda end: crew.say(f'{end}; stopping the others.')
    commands = _commands(count, words, local)
    return launcher.run(commands, on_failure=stopping).code
  if len(sizes) > 1:
    words.append(f'--distributed.min_processes={sizes[-1]}')
  checkpoints = pathlib.Path(
    settings.workdir or paths.default(name), paths.CHECKPOINTS
  )
  if local:  # Each process has its part of the same checkpoints.
    checkpoints = pathlib.Path(local, '0')
  last_step = lambda: paths.last_step(checkpoints)
  of_size = lambda size: _with_share(words, settings, size, sizes[0])
  if meeting is None:
    return elastic.run(
      launcher,
      elastic.Policy(sizes, options.max_restarts),
      lambda size: _commands(size, of_size(size), local),
      last_step,
    )
  address, _ = meeting.address

  def share_of(share: rendezvous.Share) -> list[list[str]]:
    size, first = share.hosts * count, share.place * count
    where = f'{address}:{share.port}'
    every = _commands(size, of_size(size), local, where, count)
    return every[first : first + count]

  member = rendezvous.Member(launcher, meeting, options.host, share_of, count)
  if options.host:
    return member.run()
  try:
    with rendezvous.Host0(meeting) as host0:
      hosts = [size // count for size in sizes]
      decisions = rendezvous.Decisions(
        host0, meeting, hosts, options.max_restarts, last_step
      )
      threading.Thread(target=decisions.decide, daemon=True).start()
      return member.run()
  except OSError as error:
    return exit_codes.fail(
      f'host 0 must be able to listen at --rendezvous {options.rendezvous}, got'
      f' {error.strerror}: choose an address of this host and a free port.'
    )


def _meeting(options: Options) -> rendezvous.Meeting | None:
  """How the launchers of several hosts meet; None for one host.

  Raises:
    UsageError: if address or token are missing or wrong.
  """
  if not options.rendezvous:
    return None
  host, _, port = options.rendezvous.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise exit_codes.UsageError(
      f'--rendezvous must be HOST:PORT, got {options.rendezvous!r}'
    )
  token = os.environ.get(_TOKEN, '').encode()
  if options.token_file:
    try:
      token = pathlib.Path(options.token_file).read_bytes().strip()
    except OSError as error:
      raise exit_codes.UsageError(
        f'--token_file {options.token_file}: {error.strerror}'
      ) from None
  if len(token) < _SHORTEST:
    raise exit_codes.UsageError(
      f'--rendezvous needs a secret of at least {_SHORTEST} bytes, the same on'
      f' all hosts, in --token_file or in {_TOKEN}: openssl rand -hex 16'
    )
  address = host.strip('[]'), int(port)
  return rendezvous.Meeting(address, options.hosts, token)


def _check_workers(settings: Config, processes: int, is_elastic: bool) -> None:
  """Raises unless the workers divide over the processes."""
  workers = settings.mesh.replica
  if workers % processes:
    raise exit_codes.UsageError(
      f'mesh.replica must be a multiple of the {processes} processes, got'
      f' {workers}'
    )
  if is_elastic and not workers:
    raise exit_codes.UsageError(
      '--elastic needs a fixed number of workers: set mesh.replica, got 0,'
      ' which takes all devices there are'
    )


def _sizes(settings: Config, options: Options) -> tuple[int, ...]:
  """The numbers of processes over which the batch divides, from all down.

  Raises:
    UsageError: if the smallest that was asked for is none of them.
  """
  most, least = options.all_processes, options.min_processes
  least = least or most
  share = settings.mesh.replica // most * settings.mesh.fsdp
  # A host takes part with all of its processes.
  step = options.num_processes if options.rendezvous else 1
  sizes = tuple(
    size
    for size in range(most, least - 1, -step)
    if size == most or settings.batch_size % (size * share) == 0
  )
  if sizes[-1] != least:
    raise exit_codes.UsageError(
      f'batch_size must be a multiple of {least * share}, the devices that'
      f' share it with --min_processes {least}, got {settings.batch_size}:'
      ' change one of them'
    )
  return sizes


def _with_share(
  words: list[str], settings: Config, size: int, most: int
) -> list[str]:
  """The words of an attempt with so many of the most processes.

  A worker accumulates as many more micro-batches as it takes for none to be
  larger than with all processes, so neither the batch nor the memory grows.
  """
  if size == most:
    return words
  workers = settings.mesh.replica // most * size
  rows = settings.batch_size // (workers * settings.mesh.fsdp)
  largest = settings.batch_size // (
    settings.mesh.replica * settings.mesh.fsdp * settings.accumulate_steps
  )
  steps = next(
    n
    for n in range(1, rows + 1)
    if rows % n == 0 and rows // n <= max(largest, 1)
  )
  return [
    *command_line.without(words, _SHARES),
    f'--mesh.replica={workers}',
    f'--accumulate_steps={steps}',
  ]


def _commands(
  count: int,
  words: list[str],
  local: str | None,
  address: str = '',
  per_host: int | None = None,
) -> list[list[str]]:
  """The commands of the processes, which meet at a free port by default.

  With a `local` folder, each process of a host has its own folder in it.
  """
  if not address:
    with socket.create_server(('127.0.0.1', 0)) as free:
      address = f'127.0.0.1:{free.getsockname()[1]}'

  def own(i: int) -> list[str]:
    said = [f'--distributed.process_id={i}']
    if local:
      place = pathlib.Path(local, str(i % (per_host or count)))
      said.append(f'--checkpoint.local={place}')
    return said

  command = [
    *(sys.executable, '-m', 'train'),
    *(command_line.without(words, ('checkpoint.local',)) if local else words),
    f'--distributed.coordinator={address}',
    f'--distributed.num_processes={count}',
  ]
  return [[*command, *own(i)] for i in range(count)]


if __name__ == '__main__':
  sys.exit(exit_codes.run(main))
