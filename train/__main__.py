"""`python -m train CONFIG [--section.key VALUE ...]`; see -h."""

import dataclasses
import os
import pathlib
import sys
import traceback
from typing import Any, NoReturn

from train.config import command_line, exit_codes, reader
from train.run import paths

_PROG = 'python -m train'


@dataclasses.dataclass(frozen=True)
class Options(command_line.Options):
  """Trains what a configuration describes, or resumes its last checkpoint.

  python -m train configs/quickstart.py --steps 100 --compression.rank 16

  python -m train.compare runs several methods at equal bytes, train.launch
  starts several processes, and train.prepare makes data sets.
  """

  config: str = ''
  """A file of configs/, or FILE:VARIANT; --list shows all of them."""
  plan: bool = False
  """Do not train: show what the steps would send and how long they would
  take."""
  list: bool = False
  """Do not train: print all configurations, one line each."""


def main(argv: list[str]) -> int:
  """Runs a configuration, or plans the run; returns the exit code."""
  try:
    options, overrides = command_line.read(argv, Options, _PROG)
    if options.list:
      names = reader.catalogue()
      width = max(map(len, names))
      for name, about in names.items():
        print(f'{name:{width}}  {about}')
      return 0
    settings, name = command_line.parse([options.config, *overrides], _PROG)
  except exit_codes.UsageError as error:
    return exit_codes.fail(error)
  if not settings.workdir:
    settings = dataclasses.replace(settings, workdir=paths.default(name))
  # Workers decompose side by side. Threads of LAPACK's own would wait for each
  # other: on a busy machine a refresh then takes ten times as long.
  os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
  # JAX starts only for a command that makes sense.
  import jax

  from train.distributed import equality, preemption, processes
  from train.run import loop

  try:
    if options.plan:
      from train.run import forecast

      print(forecast.describe(settings))
      return 0
    loop.run(settings, pathlib.Path(settings.workdir))
  except (ValueError, OSError, ImportError) as error:
    return exit_codes.fail(error)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    reason = str(error).split('\n')[0]
    is_memory = isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in reason
    if not is_memory:
      raise
    return exit_codes.fail(
      f'this run does not fit into memory ({reason}): use a smaller model or'
      ' batch_size, more devices per worker (mesh.fsdp), or accumulate_steps.'
    )
  except FloatingPointError as error:
    return exit_codes.fail(error, exit_codes.DIVERGED)
  except equality.Unequal as error:
    return exit_codes.fail(error, exit_codes.UNEQUAL)
  except processes.LostConnection as error:
    return exit_codes.fail(error, exit_codes.LOST)
  except preemption.Preempted as stopped:
    print(f'{stopped} Rerun the same command to resume.')
    return exit_codes.PREEMPTED
  except KeyboardInterrupt:
    print('Interrupted. Rerun the same command to resume the last checkpoint.')
    return exit_codes.INTERRUPTED
  return 0


def _report_ignored(ignored: Any) -> None:
  """Prints an exception that Python ignores, unless it is meaningless.

  After a failed save, Orbax's pending writes report to an event loop that is
  closed: one traceback per array.
  """
  if str(ignored.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(ignored)


def _run() -> NoReturn:
  sys.unraisablehook = _report_ignored
  code = 1
  try:
    code = exit_codes.run(main)
  except Exception:
    traceback.print_exc()
  if 'jax' not in sys.modules:
    sys.exit(code)
  from train.distributed import processes

  processes.leave(code)


if __name__ == '__main__':
  _run()
