"""The processes of a run: how they join, and how they leave."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import inspect
import os
import re
import socket
import sys
import time
from typing import Any, NoReturn, cast

import jax
from jax._src import distributed as jax_distributed

from train.config import exit_codes
from train.config.schema import Distributed
from train.distributed import stderr_filter

# How errors of a device begin, except for those that are about memory.
_STATUS = re.compile(r'(?!RESOURCE_EXHAUSTED)[A-Z]{2,}(_[A-Z]+)*: ')


def join(distributed: Distributed) -> int:
  """Joins the other processes; returns how many there are.

  Raises:
    ValueError: if the coordinator cannot listen, or never comes.
  """
  timeouts = distributed.start_timeout, distributed.heartbeat_timeout
  _check_mtls(distributed.mtls)
  initialize: Any = functools.partial(
    jax.distributed.initialize,
    initialization_timeout=timeouts[0],
    heartbeat_timeout_seconds=timeouts[1],
    **cast(dict[str, Any], distributed.mtls),
  )
  if distributed.coordinator:
    listens = distributed.bind or distributed.coordinator
    if distributed.process_id == 0:
      _check_free(listens)
    else:
      _await(distributed.coordinator, distributed.start_timeout)
    stderr_filter.attach(distributed.coordinator, *timeouts)
    initialize(
      distributed.coordinator,
      distributed.num_processes,
      distributed.process_id,
      coordinator_bind_address=listens,
    )
  elif not jax.distributed.is_initialized():
    _join_found(initialize, distributed.bind, timeouts)
  # `jax.process_count` would start the devices, whose number is not set yet.
  return jax_distributed.global_state.num_processes


def index() -> int:
  """Which of the processes this is, also before the devices start."""
  return jax_distributed.global_state.process_id


def _join_found(
  initialize: Callable[..., None], bind: str | None, timeouts: tuple[int, int]
) -> None:
  """Joins the processes of a cluster that JAX finds by itself, if any."""
  try:
    initialize(coordinator_bind_address=bind)
  except (ValueError, RuntimeError) as error:
    # No cluster, or a process in which JAX has started already, is alone.
    alone = 'coordinator_address should', 'must be called before any JAX calls'
    if not any(words in str(error) for words in alone):
      raise
  else:
    stderr_filter.attach('its address', *timeouts)


def _check_mtls(files: dict[str, str]) -> None:
  """Raises if mutual TLS is asked for and cannot be."""
  if not files:
    return
  known = inspect.signature(jax.distributed.initialize).parameters
  if missing := [name for name in files if name not in known]:
    raise ValueError(
      f'distributed.{missing[0]} needs jax 0.11 or newer, got'
      f' {jax.__version__}: upgrade it, or leave out distributed.mtls_*.'
    )
  for name, path in files.items():
    if name.endswith('_file') and not os.path.isfile(path):
      raise ValueError(
        f'distributed.{name} must name a PEM file, but there is no {path!r}.'
      )


def _check_free(address: str) -> None:
  """Raises if process 0 cannot listen there."""
  try:
    family, kind, _, _, where = _resolve(address)[0]
    with socket.socket(family, kind) as listener:
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      listener.bind(where)
  except OSError as error:
    raise ValueError(
      f'process 0 cannot listen at {address}: {error.strerror}. Set'
      ' distributed.coordinator (or distributed.bind) to a free port of this'
      ' host.'
    ) from None


def _await(address: str, timeout: int) -> None:
  """Returns when somebody listens there."""
  begin = time.monotonic()
  reported = False
  while time.monotonic() < begin + timeout:
    with contextlib.suppress(OSError):
      *_, where = _resolve(address)[0]
      socket.create_connection(where[:2], timeout=1).close()
      return
    if not reported and time.monotonic() > begin + 5:
      print(f'Waiting for the coordinator at {address} ...', file=sys.stderr)
      reported = True
    time.sleep(0.2)
  raise ValueError(
    f'no coordinator answered at {address} within {timeout} s: is process 0'
    ' running, and is that its address?'
  )


def _resolve(address: str) -> list[Any]:
  host, _, port = address.rpartition(':')
  if not host or not port.isdigit():
    raise ValueError(
      f'distributed.coordinator must be HOST:PORT, got {address!r}.'
    )
  return socket.getaddrinfo(host.strip('[]'), port, type=socket.SOCK_STREAM)


def is_main() -> bool:
  """Whether this process speaks for all: it prints and writes the files."""
  return jax.process_index() == 0


class LostConnection(Exception):
  """A collective failed, as it does when another process is gone."""


@contextlib.contextmanager
def patience(heartbeat_timeout: int) -> Iterator[None]:
  """Gives JAX the time to report which process is gone when a step fails.

  A collective fails at once when another process ends. JAX learns which one
  when its heartbeat is missed, and then it ends this process.

  Raises:
    LostConnection: if JAX reports nothing.
  """
  try:
    yield
  except (ValueError, RuntimeError) as error:
    reason = (str(error).splitlines() or [''])[0]
    # JAX raises both kinds for what a device reports.
    if jax.process_count() == 1 or not _STATUS.match(reason):
      raise
    print(
      f'A step failed: {reason}. If a process is gone, its number follows'
      f' within {heartbeat_timeout} s.',
      file=sys.stderr,
    )
    time.sleep(heartbeat_timeout + 5)
    raise LostConnection(
      f'a step failed ({reason}), but no process is gone: rerun the same'
      ' command to resume from the last checkpoint.'
    ) from error


def leave(code: int) -> NoReturn:
  """Ends this process with that exit code.

  It does not wait for threads: after a save that failed, Orbax's would run for
  minutes. It waits for the other processes only if all end in the same way:
  after an error they may be waiting for this one in a collective.
  """
  if jax.distributed.is_initialized():
    if code in (0, exit_codes.PREEMPTED):
      try:
        jax.distributed.shutdown()
      except RuntimeError as error:  # Another process has gone since.
        code = exit_codes.fail(error, 1)
    elif is_main():
      time.sleep(1)  # Without the coordinator, the others report nothing.
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(code)
