"""`python -m train CONFIG [--plan] [--section.key VALUE ...]`; see --help."""

import dataclasses
import os
import pathlib
import sys
import traceback
from typing import Any
from typing import NoReturn

from train.config import command_line as command


def main(argv: list[str]) -> int:
  """Runs a configuration, or plans the run; returns the exit code."""
  words = [word for word in argv if word != '--plan']
  try:
    settings, name = command.parse(words, 'python -m train')
  except command.UsageError as error:
    return command.fail(error)
  if not settings.workdir:
    settings = dataclasses.replace(settings, workdir=f'runs/{name}')
  # Workers decompose side by side. Threads of LAPACK's own would wait for each
  # other: on a busy machine a refresh then takes ten times as long.
  os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
  # JAX starts only for a command that makes sense.
  import jax

  from train.distributed import preemption
  from train.run import forecast
  from train.run import loop

  try:
    if words != argv:
      print(forecast.describe(settings))
      return 0
    loop.run(settings, pathlib.Path(settings.workdir))
  except (ValueError, OSError, ImportError) as error:
    return command.fail(error)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    reason = str(error).split('\n')[0]
    is_memory = isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in reason
    if not is_memory:
      raise
    return command.fail(
      MemoryError(
        f'this run does not fit into memory ({reason}): use a smaller model'
        ' or batch_size, more devices per worker (mesh.fsdp), or'
        ' accumulate_steps.'
      )
    )
  except FloatingPointError as error:
    return command.fail(error, command.DIVERGED)
  except preemption.Preempted as stopped:
    print(f'{stopped} The same command goes on.')
    return command.PREEMPTED
  except KeyboardInterrupt:
    print('Interrupted. The same command goes on from the last checkpoint.')
    return command.INTERRUPTED
  return 0


def _report_ignored(ignored: Any) -> None:
  """Prints an exception that Python ignores, unless it says nothing.

  Writes that Orbax gave up after an error come back to an event loop that is
  closed, a traceback for each array.
  """
  if str(ignored.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(ignored)


def _run() -> NoReturn:
  sys.unraisablehook = _report_ignored
  code = 1
  try:
    code = command.run(main)
  except Exception:
    traceback.print_exc()
  if 'jax' not in sys.modules:
    sys.exit(code)
  from train.distributed import processes

  processes.leave(code)


if __name__ == '__main__':
  _run()
