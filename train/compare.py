"""Several compressors on the same run, at the same bytes: a table, a figure.

`python -m train.compare CONFIG --compressors dense,powersgd:rank=8
[--budgets 3,8] [--seeds 0,1,2] [--learning_rates 1e-3,2e-3] [--key VALUE]`
"""

import argparse
from collections.abc import Callable
import contextlib
import inspect
import math
import pathlib
import signal
import subprocess
import sys
from typing import Any

from train.config import command_line as command
from train.config import schema as config
from train.study import grid

# What a run may take to end after Ctrl-C, which reaches it too.
_GRACE_SECONDS = 20


def main(
  argv: list[str], *, call: Callable[[list[str]], int] | None = None
) -> int:
  """Runs what is not done yet, then compares; returns the exit code.

  Every combination of compressor, budget, learning rate and seed is a run in a
  process of its own, one after the other. DIR/results.jsonl keeps a line of
  each that is finished: it is not run again, wherever the file is taken, even
  if its folder is gone (checkpoints and TensorBoard files are deleted at its
  end). A run that was interrupted resumes from its checkpoints. One study at a
  time may use DIR; --report may always read it. DIR/table.md and
  DIR/compare.png show the finished runs. All other options are those of
  `python -m train`.
  """
  try:
    options, overrides = _parser().parse_known_args(argv)
    choices = _choices(options, overrides)
    for method in choices.entries:  # Spelling costs no start of JAX.
      _check_entry(method, choices.config(*method.options).compression)
    from train.run import lock
    from train.study import runner

    name = f'{command.name_of(choices.path)}-compare'
    folder = pathlib.Path(options.workdir or f'runs/{name}')
    alone = contextlib.nullcontext if options.report else lock.held
    with alone(folder):
      study = runner.Study(choices, folder)
      code, said = 0, ''
      try:
        if not options.report:
          code, said = study.run(call or run_python)
      except KeyboardInterrupt:
        code, said = command.INTERRUPTED, 'Interrupted.'
      study.report(options.bandwidth)
  except (command.UsageError, ValueError, OSError, ImportError) as error:
    return command.fail(error)
  except KeyboardInterrupt:
    return command.INTERRUPTED
  if code:
    resumes = code in (command.PREEMPTED, command.INTERRUPTED) or code > 128
    hint = ' Rerun the same command to resume.' if resumes else ''
    print(f'{said}{hint}')
  return code


def _parser() -> argparse.ArgumentParser:
  parser = command.Parser(
    grid.PROG,
    description=inspect.cleandoc(main.__doc__ or ''),
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('config', help='a file of configs/')
  add(
    '--compressors',
    required=True,
    type=_list(str),
    metavar='METHOD,...',
    help='values of compression.method, each with settings of that section if'
    ' need be: dense,greedylore:probes=0,powersgd:rank=8',
  )
  add(
    '--budgets',
    default=(),
    type=_list(float, 1),
    metavar='TIMES,...',
    help='times fewer bytes than dense over the whole run; each method gets'
    ' the largest rank (or density) that stays within it, unless it sets its'
    ' own',
  )
  add(
    '--learning_rates',
    default=(),
    type=_list(float, 0),
    metavar='RATE,...',
    help='values of optimizer.learning_rate; the best of each method counts',
  )
  add(
    '--seeds',
    default=(),
    type=_list(int, 0),
    metavar='SEED,...',
    help='of parameters, data and compression alike',
  )
  add(
    '--bandwidth',
    default=100.0,
    type=float,
    metavar='MBIT',
    help="Mbit/s of a worker's link, for predicted times; default 100",
  )
  add('--workdir', help='default: runs/NAME-OF-CONFIG-compare')
  add(
    '--report', action='store_true', help='run nothing, show what is finished'
  )
  return parser


def _list(kind: type, least: float = -math.inf) -> Callable[[str], Any]:
  """Reads different values with commas between them."""

  def read(text: str) -> tuple[Any, ...]:
    words = {str: 'methods', int: 'integers', float: 'numbers'}[kind]
    expected = f'takes {words} with commas between them, none twice'
    if kind is not str:
      expected += f', each at least {least:g}'
    try:
      values = tuple(kind(word) for word in text.split(','))
    except ValueError:
      values = ()
    valid = all(
      v if kind is str else least <= v < math.inf for v in values
    )  # nan is not.
    if not values or not valid or len({*values}) < len(values):
      raise argparse.ArgumentTypeError(f'{expected}; got {text!r}')
    return values

  return read


def _choices(options: argparse.Namespace, overrides: list[str]) -> grid.Choices:
  _check_overrides(options, overrides)
  if not 0 < options.bandwidth < math.inf:
    raise command.UsageError(
      f'--bandwidth takes Mbit/s, a number above 0, got {options.bandwidth:g}'
    )
  return grid.Choices(
    options.config,
    tuple(overrides),
    tuple(map(grid.entry, options.compressors)),
    options.budgets,
    options.learning_rates,
    options.seeds,
  )


def _check_entry(method: grid.Entry, compression: config.Compression) -> None:
  """Raises a UsageError for a setting of a method that it does not read."""
  for key in {*compression.unread()} & {*dict(method.settings)}:
    raise command.UsageError(
      f'--compressors {method.text}: {method.method} does not read {key},'
      f' which is for {", ".join(config.METHODS_OF[key])}; leave it out'
    )


def _check_overrides(options: argparse.Namespace, overrides: list[str]) -> None:
  """Raises a UsageError for a key that another option of the study sets."""
  for option, given, keys in (
    ('--compressors', True, ('compression.method',)),
    ('--learning_rates', options.learning_rates, grid.RATE_KEYS),
    ('--seeds', options.seeds, grid.SEED_KEYS),
  ):
    for key in keys if given else ():
      if command.without(overrides, {key}) != overrides:
        raise command.UsageError(
          f'{option} sets {key} in every run of a study, got --{key} as well:'
          ' leave one of them out'
        )


def run_python(words: list[str]) -> int:
  """Runs this Python with such a command line; returns the exit code.

  SIGTERM is handed on: the run saves what it has and ends.
  """
  with subprocess.Popen([sys.executable, *words]) as process:
    hand_on = lambda *_: process.terminate()
    before = signal.signal(signal.SIGTERM, hand_on)
    try:
      code = process.wait()
    except KeyboardInterrupt:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)  # It may be saving a checkpoint.
      raise
    finally:
      signal.signal(signal.SIGTERM, before)
      process.kill()
  return code if code >= 0 else 128 - code  # As a shell says it of a signal.


if __name__ == '__main__':
  sys.exit(command.run(main))
