"""`python -m train.launch CONFIG --num_processes N [--section.key VALUE ...]`.

Each line of output begins with the number of its process. When one process
fails, the launcher is killed, or nobody reads its output any more, all end.
"""

from collections.abc import Callable
import ctypes
import dataclasses
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from train.config import command_line, exit_codes

_PROG = 'python -m train.launch'
# Seconds the others may take to report what they saw of a failure.
_GRACE = 5.0
_AS_ASKED = (None, 0, exit_codes.PREEMPTED)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclasses.dataclass(frozen=True)
class Options(command_line.Options):
  """Runs all processes of a run on this machine, to try out a cluster's run."""

  config: str
  """A file of configs/, or FILE:VARIANT."""
  num_processes: int
  """How many processes share the workers of mesh.replica."""

  def _check(self) -> None:
    self._at_least(1, 'num_processes')


def main(argv: list[str]) -> int:
  """Runs the processes; returns the exit code of the first that failed."""
  try:
    options, overrides = command_line.read(argv, Options, _PROG)
    words = [options.config, *overrides]
    settings, _ = command_line.parse(words, _PROG)
    if settings.mesh.replica % options.num_processes:
      raise exit_codes.UsageError(
        f'mesh.replica must be a multiple of the {options.num_processes}'
        f' processes, got {settings.mesh.replica}'
      )
  except exit_codes.UsageError as error:
    return exit_codes.fail(error)
  processes = _start(options.num_processes, words)
  stop = lambda *_: _ask_to_stop(processes)
  printers = [
    threading.Thread(target=_print, args=(i, process, stop))
    for i, process in enumerate(processes)
  ]
  for printer in printers:
    printer.start()
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:  # As nohup sets SIGHUP.
      signal.signal(number, stop)
  code = _wait(processes)
  for printer in printers:
    printer.join()
  return code


def _start(count: int, words: list[str]) -> list[subprocess.Popen[bytes]]:
  """Starts the processes in groups of their own, so Ctrl-C reaches us only."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  command = [
    *(sys.executable, '-m', 'train', *words),
    f'--distributed.coordinator=127.0.0.1:{port}',
    f'--distributed.num_processes={count}',
  ]
  return [
    subprocess.Popen(
      [*command, f'--distributed.process_id={i}'],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      start_new_session=True,
      env=os.environ | {'PYTHONUNBUFFERED': '1'},
      preexec_fn=functools.partial(_die_with, os.getpid(), _libc()),
    )
    for i in range(count)
  ]


def _libc() -> ctypes.CDLL | None:
  """The C library of Linux; None elsewhere."""
  return ctypes.CDLL(None) if sys.platform == 'linux' else None


def _die_with(parent: int, libc: ctypes.CDLL | None) -> None:
  """Has the kernel kill this new process when its parent dies (Linux).

  That is safe, as a checkpoint is either complete or absent.
  """
  if libc is not None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before.
      os._exit(1)


def _print(
  index: int, process: subprocess.Popen[bytes], stop: Callable[[], None]
) -> None:
  """Prints every line of a process with its number in front.

  If the lines cannot be written, because the reader or the terminal has gone,
  it asks all processes to stop. It keeps reading, so that none of them blocks.
  """
  assert process.stdout is not None
  for line in process.stdout:
    text = line.decode(errors='replace').rstrip('\n')
    try:
      sys.stdout.write(f'[{index}] {text}\n')
      sys.stdout.flush()
    except OSError:
      exit_codes.discard_output()
      stop()


def _ask_to_stop(processes: list[subprocess.Popen[bytes]]) -> None:
  """Asks all processes to save and stop."""
  for process in processes:
    if process.poll() is None:
      process.terminate()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
  """Waits until all have ended; kills them a while after one has failed."""
  deadline = float('inf')
  failed: list[int] = []
  while None in [process.poll() for process in processes]:
    ended = {i: p.returncode for i, p in enumerate(processes)}
    now = [i for i, code in ended.items() if code not in _AS_ASKED]
    if now and not failed:
      failed, deadline = now, time.monotonic() + _GRACE
      print(
        f'Process {now[0]} {_end(ended[now[0]])}; stopping the others.',
        file=sys.stderr,
      )
    if time.monotonic() > deadline:
      for process in processes:
        process.kill()
    time.sleep(0.1)
  first = processes[failed[0]].returncode if failed else 0
  code = first or next((p.returncode for p in processes if p.returncode), 0)
  return code if code >= 0 else 128 - code


def _end(code: int | None) -> str:
  """How a process ended."""
  assert code is not None
  if code < 0:
    return f'was ended by {signal.Signals(-code).name}'
  return f'failed with exit code {code}'


if __name__ == '__main__':
  sys.exit(exit_codes.run(main))
