"""The processes that one machine runs for a launcher.

Each line of their output begins with the number of its process. When one
process fails, the launcher is killed, or nobody reads its output any more, all
end.
"""

from collections.abc import Callable, Sequence
import contextlib
import ctypes
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
import time

from train.config import exit_codes

_TICK = 0.1
_AS_ASKED = (None, 0, exit_codes.PREEMPTED)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclasses.dataclass(frozen=True)
class End:
  """How the processes of a crew ended."""

  codes: tuple[int, ...]
  """Exit codes; below 0 is the number of a signal."""
  first: int | None
  """Which of them failed first; None if all ended as asked."""
  begin: int = 0
  """The number of the first of them in the run."""

  @property
  def code(self) -> int:
    """The exit code of the first that failed; PREEMPTED if some stopped.

    A process that ended by a signal has the code that a shell would report.
    """
    if self.first is None:  # Before its first step, SIGTERM ends a process.
      return exit_codes.PREEMPTED if any(self.codes) else 0
    code = self.codes[self.first]
    return code if code >= 0 else 128 - code

  def __str__(self) -> str:
    """What happened: 'Process 1 was ended by SIGKILL'."""
    if self.first is None:
      return 'The processes were asked to stop'
    number = self.begin + self.first
    return f'Process {number} {_how(self.codes[self.first])}'


class Launcher:
  """Runs crews, one after the other, and passes signals on to the present one.

  Attributes:
    is_asked_to_stop: whether a signal came, or nobody reads the output.
  """

  def __init__(self, grace: float) -> None:
    """Takes the seconds in which the others may report what they saw."""
    self.is_asked_to_stop = False
    self._grace = grace
    self._crew_is_asked = False
    self._processes: list[subprocess.Popen[bytes]] = []

  def listen(self) -> None:
    """Passes SIGINT, SIGTERM and SIGHUP on as a request to save and stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      if signal.getsignal(number) != signal.SIG_IGN:  # As nohup sets SIGHUP.
        signal.signal(number, self._answer)

  def _answer(self, number: int, frame: object) -> None:
    """Stops, and says so once: the processes may take a while."""
    del frame
    if not self.is_asked_to_stop:
      name = signal.Signals(number).name
      say(f'{name}: all processes are asked to save and stop.')
    self.stop()

  def stop(self) -> None:
    """Asks all processes to save and stop, and starts no more."""
    self.is_asked_to_stop = True
    self.ask_to_stop()

  def ask_to_stop(self) -> None:
    """Asks the processes of the present crew to save and stop."""
    self._crew_is_asked = True
    for process in self._processes:
      if process.poll() is None:
        process.terminate()

  def kill(self) -> None:
    """Ends the processes of the present crew at once."""
    for process in self._processes:
      process.kill()

  def run(
    self,
    commands: Sequence[Sequence[str]],
    *,
    on_failure: Callable[[End], None] = lambda end: None,
    tick: Callable[[], None] = lambda: None,
    first: int = 0,
  ) -> End:
    """Runs one process per command until all have ended.

    A while after one has failed, the others are killed.

    Args:
      commands: the words of each process.
      on_failure: called once, when the first of them has failed.
      tick: called about ten times a second.
      first: the number of the first process in the run.
    """
    self._crew_is_asked = False
    self._processes = [_start(words) for words in commands]
    printers = [
      threading.Thread(target=_print, args=(i, process, self.stop))
      for i, process in enumerate(self._processes, first)
    ]
    for printer in printers:
      printer.start()
    if self.is_asked_to_stop:  # The signal may have come in between.
      self.ask_to_stop()
    failed = self._wait(on_failure, tick)
    for printer in printers:
      printer.join()
    return End(self._codes(), failed, first)

  def _codes(self) -> tuple[int, ...]:
    return tuple(process.wait() for process in self._processes)

  def _wait(
    self, on_failure: Callable[[End], None], tick: Callable[[], None]
  ) -> int | None:
    """Waits for all; returns which one failed first."""
    deadline, first = float('inf'), None
    while None in (codes := [process.poll() for process in self._processes]):
      if first is None and (first := self._failed(codes)) is not None:
        deadline = time.monotonic() + self._grace
        on_failure(End(tuple(x or 0 for x in codes), first))
      if time.monotonic() > deadline:
        self.kill()
      tick()
      time.sleep(_TICK)
    return self._failed(codes) if first is None else first

  def _failed(self, codes: Sequence[int | None]) -> int | None:
    """The process that failed, one that could be started again if possible.

    A process that sees another one end may report bad input at the same time.
    """
    # One that was asked before it listens for SIGTERM is ended by it.
    as_asked = [*_AS_ASKED, *([-signal.SIGTERM] * self._crew_is_asked)]
    failed = [i for i, code in enumerate(codes) if code not in as_asked]
    failed.sort(key=lambda i: codes[i] in exit_codes.FINAL)
    return failed[0] if failed else None


def say(text: str) -> None:
  """Writes a line to standard error, if that is still possible.

  Not by `print`, which a signal handler may interrupt but not call.
  """
  with contextlib.suppress(OSError):
    os.write(2, f'{text}\n'.encode())


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
  """Starts a process in a group of its own, so Ctrl-C reaches us only."""
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    start_new_session=True,
    env=os.environ | {'PYTHONUNBUFFERED': '1'},
    preexec_fn=functools.partial(_die_with, os.getpid(), _libc()),
  )


@functools.cache
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
  with process.stdout as lines:
    for line in lines:
      text = line.decode(errors='replace').rstrip('\n')
      try:
        sys.stdout.write(f'[{index}] {text}\n')
        sys.stdout.flush()
      except OSError:
        exit_codes.discard_output()
        stop()


def _how(code: int) -> str:
  """How a process ended."""
  if code < 0:
    return f'was ended by {signal.Signals(-code).name}'
  if code == exit_codes.STALLED:
    return f'made no progress and ended with exit code {code}'
  return f'failed with exit code {code}'
