"""One line about why JAX ended this process.

When a process of a run is gone, JAX's coordination service ends the others from
C++, with pages of stack trace and without asking Python. So the standard error
of each process goes through this filter, a program of its own that outlives
the process by a moment.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

_LOG = re.compile(r'([IWEF])\d{4} [\d:.]+ +\d+ (\S+\.(?:cc|h)):\d+\]')
_SERVICE = ('coordination_service', 'preemption_', 'client.h', 'add_port.cc')
_FATAL = 'Terminating process because the JAX distributed service'
_SILENT = re.compile(r'unhealthy \(stopped sending heartbeats\):\n([\d\n]+)')


def attach(
  coordinator: str, start_timeout: int, heartbeat_timeout: int
) -> None:
  """Puts the filter between this process and its standard error."""
  words = [coordinator, str(start_timeout), str(heartbeat_timeout)]
  program = [sys.executable, '-m', 'train.distributed.stderr_filter', *words]
  root = str(pathlib.Path(__file__).parents[2])
  sys.stderr.flush()
  reader, writer = os.pipe()
  subprocess.Popen(
    program,
    stdin=reader,
    start_new_session=True,
    env=os.environ | {'PYTHONPATH': root},
  )
  os.close(reader)
  os.dup2(writer, 2)
  os.close(writer)


def translate(
  log: str, coordinator: str, start_timeout: int, heartbeat_timeout: int
) -> str | None:
  """One line about a log that ends with the service's last words, or None."""
  if _FATAL not in log:
    return None
  resume = 'Rerun the same command to resume from the last checkpoint.'
  if 'RegisterTask' in log:
    return (
      f'not all processes came to {coordinator} within {start_timeout} s:'
      ' start as many as distributed.num_processes says, each with its own'
      ' distributed.process_id; with distributed.mtls_*, all with certificates'
      ' of one authority.'
    )
  if silent := _SILENT.search(log):
    numbers = silent[1].split()
    who = 'processes' if len(numbers) > 1 else 'process'
    return (
      f'{who} {", ".join(numbers)} of this run sent no heartbeat for'
      f' {heartbeat_timeout} s, so the others stop, too. {resume}'
    )
  if 'UNAVAILABLE' in log or 'DEADLINE_EXCEEDED' in log:
    return (
      f'process 0, the coordinator at {coordinator}, is gone, so the others'
      f' stop, too. {resume}'
    )
  reason = log.split('absl::Status: ')[-1].splitlines()[0]
  return f'JAX ended this process: {reason}. {resume}'


def _severity(line: str) -> str:
  """'I', 'W', 'E' or 'F' of a line of the service; '' for all others."""
  found = _LOG.match(line)
  return found[1] if found and found[2].startswith(_SERVICE) else ''


def main(coordinator: str, start_timeout: str, heartbeat_timeout: str) -> None:
  """Passes standard input on to standard error, but for the service's words."""
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  held: list[str] = []
  for raw in sys.stdin.buffer:
    line = raw.decode(errors='replace')
    severity = _severity(line)
    if severity in ('E', 'F') or (held and not _LOG.match(line)):
      held.append(line)
    elif not severity:
      sys.stderr.write(line)
      sys.stderr.flush()
  said = translate(
    ''.join(held), coordinator, int(start_timeout), int(heartbeat_timeout)
  )
  sys.stderr.write(f'error: {said}\n' if said else ''.join(held))


if __name__ == '__main__':
  main(*sys.argv[1:])
