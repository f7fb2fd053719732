"""`python -m train CONFIG [--section.key VALUE ...]`; see --help."""

import dataclasses
import pathlib
import sys

from train import command


def main(argv: list[str]) -> int:
  """Runs a configuration; returns the exit code."""
  try:
    settings, name = command.parse(argv, 'python -m train')
  except command.UsageError as error:
    return command.fail(error)
  if not settings.workdir:
    settings = dataclasses.replace(settings, workdir=f'runs/{name}')
  from train import loop  # JAX starts only for a command that makes sense.

  try:
    loop.run(settings, pathlib.Path(settings.workdir))
  except (ValueError, OSError, ImportError) as error:
    return command.fail(error)
  except FloatingPointError as error:
    return command.fail(error, command.DIVERGED)
  except KeyboardInterrupt:
    print('Interrupted. The same command goes on from the last checkpoint.')
    return command.INTERRUPTED
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
