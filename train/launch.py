"""`python -m train.launch --num-processes N CONFIG [--section.key VALUE ...]`.

Runs the processes of one run on this machine, to try out what will run on
many. Each line of output begins with the number of its process. When one
process fails, all end. When the launcher is killed, or nobody reads its output
any more, all end, too.
"""

from collections.abc import Callable
import ctypes
import functools
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from train.config import command_line as command

_PROG = 'python -m train.launch'
_USAGE = f'expected {_PROG} --num-processes N CONFIG [--section.key VALUE ...]'
# How long the others may take to say what they saw of a failure.
_GRACE = 5.0
_AS_ASKED = (None, 0, command.PREEMPTED)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(argv: list[str]) -> int:
  """Runs the processes; returns the exit code of the first that failed."""
  try:
    count, rest = _parse(argv)
    settings, _ = command.parse(rest, _PROG)
    if settings.mesh.replica % count:
      raise command.UsageError(
        f'mesh.replica must be a multiple of the {count} processes, got'
        f' {settings.mesh.replica}.'
      )
  except command.UsageError as error:
    return command.fail(error)
  processes = _start(count, rest)
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


def _parse(argv: list[str]) -> tuple[int, list[str]]:
  """The number of processes, and what is for each of them."""
  if {'-h', '--help'} & set(argv[:1]):
    print(inspect.cleandoc(__doc__ or ''))
    sys.exit()
  option, rest = (argv[0] if argv else ''), argv[1:]
  name, equals, value = option.partition('=')
  if name.replace('_', '-') != '--num-processes' or not (equals or rest):
    raise command.UsageError(_USAGE)
  if not equals:
    value, *rest = rest
  if not value.isdigit() or int(value) < 1:
    raise command.UsageError(
      f'--num-processes must be a number from 1 on, got {value!r}'
    )
  return int(value), rest


def _start(count: int, rest: list[str]) -> list[subprocess.Popen[bytes]]:
  """The processes, each in a group of its own, so that Ctrl-C is ours."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  of_all = [
    f'--distributed.coordinator=127.0.0.1:{port}',
    f'--distributed.num_processes={count}',
  ]
  die_with_parent = functools.partial(_die_with, os.getpid(), _libc())
  return [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        'train',
        *rest,
        *of_all,
        f'--distributed.process_id={i}',
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      start_new_session=True,
      env=os.environ | {'PYTHONUNBUFFERED': '1'},
      preexec_fn=die_with_parent,
    )
    for i in range(count)
  ]


def _libc() -> ctypes.CDLL | None:
  """The C library of Linux; None elsewhere."""
  return ctypes.CDLL(None) if sys.platform == 'linux' else None


def _die_with(parent: int, libc: ctypes.CDLL | None) -> None:
  """Has the kernel kill this new process when its parent dies (Linux).

  A checkpoint is complete or not there, so killing is safe; and whatever the
  process waits for, it ends.
  """
  if libc is not None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It died before.
      os._exit(1)


def _print(
  index: int, process: subprocess.Popen[bytes], stop: Callable[[], None]
) -> None:
  """Prints every line of a process with its number in front.

  If the lines cannot be written, because their reader or the terminal has gone,
  asks all to stop. It still reads on, so that no process waits for its output.
  """
  assert process.stdout is not None
  for line in process.stdout:
    text = line.decode(errors='replace').rstrip('\n')
    try:
      sys.stdout.write(f'[{index}] {text}\n')
      sys.stdout.flush()
    except OSError:
      command.discard_output()
      stop()


def _ask_to_stop(processes: list[subprocess.Popen[bytes]]) -> None:
  """Asks all to save and stop; the first one alone would do."""
  for process in processes:
    if process.poll() is None:
      process.terminate()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
  """Waits until all have ended, and ends them a while after one has failed."""
  deadline = float('inf')
  failed: list[int] = []
  while None in [process.poll() for process in processes]:
    ended = {i: p.returncode for i, p in enumerate(processes)}
    now = [i for i, code in ended.items() if code not in _AS_ASKED]
    if now and not failed:
      failed, deadline = now, time.monotonic() + _GRACE
      print(
        f'Process {now[0]} {_said(ended[now[0]])}; the others have to end.',
        file=sys.stderr,
      )
    if time.monotonic() > deadline:
      for process in processes:
        process.kill()
    time.sleep(0.1)
  first = processes[failed[0]].returncode if failed else 0
  code = first or next((p.returncode for p in processes if p.returncode), 0)
  return code if code >= 0 else 128 - code


def _said(code: int | None) -> str:
  """How a process ended, in words."""
  assert code is not None
  if code < 0:
    return f'was ended by {signal.Signals(-code).name}'
  return f'failed with exit code {code}'


if __name__ == '__main__':
  sys.exit(command.run(main))
