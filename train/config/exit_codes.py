"""How a command ends: its exit code, and one line about what is wrong."""

from collections.abc import Callable
import os
import sys

# In addition to 0 (done).
LOST = 1  # Another process is gone; or a bug.
BAD_INPUT = 2
DIVERGED = 3
STALLED = 4  # No progress for distributed.stall_timeout.
UNEQUAL = 5  # The workers hold different parameters.
PREEMPTED = 75  # Asked to stop, and saved; EX_TEMPFAIL: "try again".
INTERRUPTED = 130
CLOSED = 141  # The reader of the output has gone: 128 + SIGPIPE.
# The same command would end in the same way, or somebody wants it to end.
FINAL = (BAD_INPUT, DIVERGED, INTERRUPTED, CLOSED)
_LONGEST, _BEGIN = 2000, 1200


class UsageError(Exception):
  """A command that cannot be carried out, explained in one line."""


def fail(error: Exception | str, code: int = BAD_INPUT) -> int:
  """Prints one line about what is wrong; returns the exit code.

  Raises:
    BrokenPipeError: if that is the error; see `run`.
  """
  if isinstance(error, BrokenPipeError):
    raise error
  print(f'error: {one_line(error)}', file=sys.stderr)
  return code


def one_line(error: Exception | str) -> str:
  r"""The text of an error as one line of bounded length.

  Libraries quote damaged files in their errors. So line breaks and control
  characters become escapes, and the middle of a long text is left out.

  Example:
    >>> one_line('a\nb\x1b[2J')
    'a\\nb\\x1b[2J'
  """
  text = str(error) or type(error).__name__
  shown = ''.join(x if x.isprintable() else repr(x)[1:-1] for x in text)
  if len(shown) > _LONGEST:
    shown = f'{shown[:_BEGIN]} ... {shown[_BEGIN - _LONGEST :]}'
  return shown


def run(main: Callable[[list[str]], int]) -> int:
  """Runs a command; returns its exit code.

  A command whose output nobody reads any more (`| head`) ends silently, as
  programs in a pipe do. Ctrl-C ends one with a line rather than a traceback.
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
  except KeyboardInterrupt:
    print('Interrupted.', file=sys.stderr)
    return INTERRUPTED


def discard_output() -> None:
  """Discards everything that is printed from now on."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
