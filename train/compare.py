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
import statistics
import subprocess
import sys
import time
from typing import Any

from train.config import command_line as command
from train.config import schema as config
from train.study import grid

# What a run may take to end after Ctrl-C, which reaches it too.
_GRACE_SECONDS = 20


def main(argv: list[str]) -> int:
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
    from train.study import results as study

    name = f'{command.name_of(choices.path)}-compare'
    folder = pathlib.Path(options.workdir or f'runs/{name}')
    alone = contextlib.nullcontext if options.report else lock.held
    with alone(folder):
      results = study.Results(folder / 'results.jsonl')
      return _study(_plan(choices), results, folder, options)
  except (command.UsageError, ValueError, OSError, ImportError) as error:
    return command.fail(error)
  except KeyboardInterrupt:
    return command.INTERRUPTED


def _study(runs, results, folder, options) -> int:
  """Runs and reports; returns the exit code."""
  code, words = 0, ''
  try:
    if not options.report:
      code, words = _run_all(runs, results, folder)
  except KeyboardInterrupt:
    code, words = command.INTERRUPTED, 'Interrupted.'
  _report(runs, results, folder, options.bandwidth)
  if code:
    goes_on = code in (command.PREEMPTED, command.INTERRUPTED) or code > 128
    hint = ' The same command goes on where this one was.' if goes_on else ''
    print(f'{words}{hint}')
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


def _plan(choices: grid.Choices) -> dict[str, list[grid.Run]]:
  """All runs by their identity, checked. Several may be the same in the end.

  Raises:
    UsageError, ValueError, OSError, ImportError: if one of them cannot be run.
  """
  import jax

  from train import tasks
  from train.study import budget
  from train.study import results as study

  # The memory of an accelerator belongs to the runs.
  jax.config.update('jax_platforms', 'cpu')
  settings = choices.config()
  if not settings.mesh.replica:
    raise command.UsageError(
      'a study is about a number of workers: set mesh.replica, got 0, which'
      ' takes all devices there are'
    )
  task = tasks.load(settings)

  def choose(method: grid.Entry, times: float) -> grid.Knob | None:
    name = budget.knob(method.method)
    if name is None or name in dict(method.settings):
      return None
    settings = choices.config(*method.options)
    value = budget.largest(settings, task, times)
    print(f'{method.text} within {times:g}x: {name} {value:g}', flush=True)
    return grid.Knob(name, value)

  runs = grid.runs(choices, list(grid.variants(choices, choose)))
  study.check(runs, task)
  found: dict[str, list[grid.Run]] = {}
  for run in runs:
    found.setdefault(study.identity(run, task.description), []).append(run)
  return found


def _run_all(runs, results, folder) -> tuple[int, str]:
  """Runs what has no line yet; returns an exit code and what happened."""
  from train.study import results as study

  if done := sum(identity in results.lines for identity in runs):
    print(f'{done} of {len(runs)} runs are finished, as results.jsonl says.')
  for i, (identity, (run, *_)) in enumerate(runs.items()):
    if identity in results.lines:
      continue
    known = [results.lines[x] for x in runs if x in results.lines]
    left = _time_left(known, len(runs) - len(known))
    print(f'[{i + 1}/{len(runs)}] {run.title}{left}', flush=True)
    started = time.monotonic()
    # Named by all that it is: what lies there is of this very run.
    place = folder / f'{run.name}-{identity[:8]}'
    code = _call(['-m', 'train', *run.options, '--workdir', str(place)])
    if code not in (0, command.DIVERGED):  # That it diverged is a result.
      return code, f'{run.title} in {place} ended with exit code {code}.'
    wall_seconds = time.monotonic() - started
    diverged = code == command.DIVERGED
    results.add(study.describe(run, identity, place, wall_seconds, diverged))
    study.lighten(place)
  return 0, ''


def _call(words: list[str]) -> int:
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


def _time_left(known: list[dict[str, Any]], runs: int) -> str:
  """What the unfinished runs may take, from what the finished ones took."""
  if not known:
    return ''
  seconds = runs * statistics.mean(line['wall_seconds'] for line in known)
  for unit, size in (('h', 3600), ('min', 60)):
    if seconds > 2 * size:
      return f' (about {seconds / size:.0f} {unit} left)'
  return f' (about {seconds:.0f} s left)'


def _report(runs, results, folder, bandwidth) -> None:
  """Writes table.md and compare.png of what is finished."""
  from train.study import comparison

  rows = comparison.rows(
    [
      (run, results.lines[identity])
      for identity, same in runs.items()
      if identity in results.lines
      for run in same
    ]
  )
  if not rows:
    return
  from train.study import figure as comparison_figure

  table = comparison.table(rows, bandwidth)
  (folder / 'table.md').write_text(table, encoding='utf-8')
  comparison_figure.draw(folder / 'compare.png', rows, bandwidth)
  print(f'\n{table}\nTable and figure lie in {folder}.')


if __name__ == '__main__':
  sys.exit(command.run(main))
