"""How a command ends: its exit code, and one line about what is wrong."""

from collections.abc import Callable
import os
import sys

# In addition to 0 (done), 1 (a bug, or a lost process) and 2 (bad input).
DIVERGED = 3
PREEMPTED = 75  # Asked to stop, and saved; EX_TEMPFAIL: "try again".
INTERRUPTED = 130
CLOSED = 141  # The reader of the output has gone: 128 + SIGPIPE.


class UsageError(Exception):
  """A command that cannot be carried out, explained in one line."""


def fail(error: Exception | str, code: int = 2) -> int:
  """Prints one line about what is wrong; returns the exit code.

  Raises:
    BrokenPipeError: if that is the error; see `run`.
  """
  if isinstance(error, BrokenPipeError):
    raise error
  print(f'error: {error}', file=sys.stderr)
  return code


def run(main: Callable[[list[str]], int]) -> int:
  """Runs a command; returns its exit code.

  A command whose output nobody reads any more (`| head`) ends silently, as
  programs in a pipe do.
  """
  try:
    try:
      code = main(sys.argv[1:])
    except SystemExit as done:  # After the help.
      code = int(done.code or 0)
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    discard_output()
    return CLOSED


def discard_output() -> None:
  """Discards everything that is printed from now on."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
