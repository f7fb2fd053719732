"""Several compressors on the same run, at the same bytes: table, figure, page.

`python -m train.compare CONFIG --compressors dense,powersgd:rank=8
[--budgets 3,8 --every 1,4,10 --precisions float32,int8] [--seeds 0,1,2]
[--learning_rates 1e-3,2e-3] [--key VALUE]`
"""

from collections.abc import Callable
import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys

from train.config import command_line, exit_codes, reader, schema
from train.study import grid

# What a run may take to end after Ctrl-C, which reaches it too.
_GRACE_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Options(command_line.Options):
  """Runs what is not done yet, then compares.

  Every combination of compressor, budget, learning rate and seed is a run in a
  process of its own, one after the other. WORKDIR/results.jsonl keeps a line of
  each finished run, which is then not run again, even if the file is moved or
  the run's folder deleted; checkpoints and TensorBoard files are deleted at the
  end of a run. An interrupted run resumes from its last checkpoint. One study
  at a time may use WORKDIR; --report may always read it. WORKDIR/table.md,
  WORKDIR/compare.png and WORKDIR/report.html show the finished runs; the last
  one links to WORKDIR/RUN/report.html of each.
  """

  config: str
  """A file of configs/, or FILE:VARIANT."""
  compressors: tuple[str, ...]
  """Values of compression.method with commas between them, each with keys of
  the sections compression and local where needed:
  dense,powersgd:rank=8,powersgd:every=10:local.start_step=50. A start_step
  without its section is compression.start_step."""
  budgets: tuple[float, ...] = ()
  """Times fewer bytes than dense over the whole run, as 3,8. Each method gets
  the largest rank (or density) that stays within it, unless it sets its
  own."""
  every: tuple[int, ...] = ()
  """Candidates for local.every, as 1,4,10: each method runs with each of them
  at each budget, and the table marks the best. 1 sends in every step, without
  the other keys of section local."""
  precisions: tuple[schema.FactorDType, ...] = ()
  """Candidates for compression.factor_dtype, as float32,int8, for the methods
  whose messages have a type. They are combined with those of --every."""
  learning_rates: tuple[float, ...] = ()
  """Values of optimizer.learning_rate, as 1e-3,2e-3; the best of each method
  counts."""
  seeds: tuple[int, ...] = ()
  """Seeds of parameters, data and compression alike, as 0,1,2."""
  bandwidth: float = 100.0
  """Mbit/s of a worker's link, for predicted times."""
  workdir: str = ''
  """Folder of the study; '' is runs/NAME-OF-CONFIG-compare."""
  report: bool = False
  """Run nothing, show what is finished."""

  @property
  def methods(self) -> list[str]:
    """The entries of --compressors."""
    return ','.join(self.compressors).split(',')

  def _check(self) -> None:
    if '' in self.methods:
      raise ValueError(
        '--compressors must be methods with commas between them, got'
        f' {",".join(self.compressors)!r}'
      )
    self._at_least(1, 'budgets')
    self._at_least(1, 'every')
    self._at_least(0, 'learning_rates', 'seeds')
    for values in (
      self.methods,
      self.budgets,
      self.every,
      self.precisions,
      self.learning_rates,
      self.seeds,
    ):
      if len({*values}) < len(values):
        given = ','.join(map(str, values))
        raise ValueError(f'expected values that differ, got {given}')
    if self.bandwidth <= 0:
      raise ValueError(
        f'--bandwidth must be above 0 Mbit/s, got {self.bandwidth:g}'
      )


def main(
  argv: list[str], *, call: Callable[[list[str]], int] | None = None
) -> int:
  """Runs what is not done yet, then compares; returns the exit code."""
  try:
    options, overrides = command_line.read(argv, Options, grid.PROG)
    choices = _choices(options, overrides)  # Finds mistakes before JAX starts.
    from train.run import lock, paths
    from train.study import runner

    name = f'{reader.name_of(choices.path)}-compare'
    folder = pathlib.Path(options.workdir or paths.default(name))
    alone = contextlib.nullcontext if options.report else lock.held
    with alone(folder):
      lock.refuse(folder, paths.CONFIG, 'a run')
      study = runner.Study(choices, folder)
      code, said = 0, ''
      try:
        if not options.report:
          code, said = study.run(run_python if call is None else call)
      except KeyboardInterrupt:
        code, said = exit_codes.INTERRUPTED, 'Interrupted.'
      if not study.report(options.bandwidth) and options.report:
        raise exit_codes.UsageError(
          f'--report needs finished runs, but {folder} has none of this study:'
          ' leave --report out to run it, or set --workdir to the folder of its'
          f' {paths.RESULTS}'
        )
  except (exit_codes.UsageError, ValueError, OSError, ImportError) as error:
    return exit_codes.fail(error)
  if code:
    resumes = (
      code in (exit_codes.PREEMPTED, exit_codes.INTERRUPTED) or code > 128
    )
    hint = ' Rerun the same command to resume.' if resumes else ''
    print(f'{said}{hint}')
  return code


def _choices(options: Options, overrides: list[str]) -> grid.Choices:
  _check_overrides(options, overrides)
  choices = grid.Choices(
    options.config,
    tuple(overrides),
    (),
    options.budgets,
    options.learning_rates,
    options.seeds,
  )
  entries = [
    entry
    for method in map(grid.entry, options.methods)
    for entry in _possible(
      choices, [*grid.candidates(method, options.every, options.precisions)]
    )
  ]
  return dataclasses.replace(choices, entries=tuple(entries))


def _possible(
  choices: grid.Choices, candidates: list[grid.Entry]
) -> list[grid.Entry]:
  """The candidates of a method that can be; prints which are left out.

  Raises:
    UsageError: if there is none.
  """
  refused: dict[grid.Entry, exit_codes.UsageError] = {}
  for entry in candidates:
    try:
      _check_entry(entry, choices.config(*entry.options).compression)
    except exit_codes.UsageError as error:
      refused[entry] = error
  possible = [x for x in candidates if x not in refused]
  if not possible:
    raise refused[candidates[0]]
  for entry, reason in refused.items():
    print(f'Left out: {entry.text}: {reason}', flush=True)
  return possible


def _check_entry(method: grid.Entry, compression: schema.Compression) -> None:
  """Raises a UsageError for a setting of a method that it does not read."""
  given = dict(method.settings)
  for key in compression.unread():
    if f'compression.{key}' in given:
      raise exit_codes.UsageError(
        f'--compressors {method.text}: {method.method} does not read {key},'
        f' which is for {", ".join(schema.METHODS_OF[key])}; leave it out'
      )


def _check_overrides(options: Options, overrides: list[str]) -> None:
  """Raises a UsageError for a key that another option of the study sets."""
  for option, given, keys in (
    ('--compressors', True, ('compression.method',)),
    ('--learning_rates', options.learning_rates, grid.RATE_KEYS),
    ('--seeds', options.seeds, grid.SEED_KEYS),
    ('--every', options.every, grid.EVERY_KEYS),
    ('--precisions', options.precisions, grid.PRECISION_KEYS),
  ):
    for key in keys if given else ():
      if command_line.without(overrides, {key}) != overrides:
        raise exit_codes.UsageError(
          f'{option} sets {key} in every run of a study, got --{key} as well:'
          ' leave one of them out'
        )


def run_python(words: list[str]) -> int:
  """Runs this Python with such a command line; returns the exit code.

  SIGTERM is passed on: the run saves and ends.
  """
  with subprocess.Popen([sys.executable, *words]) as process:
    pass_on = lambda *_: process.terminate()
    before = signal.signal(signal.SIGTERM, pass_on)
    try:
      code = process.wait()
    except KeyboardInterrupt:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)  # It may be saving a checkpoint.
      raise
    finally:
      signal.signal(signal.SIGTERM, before)
      process.kill()
  return code if code >= 0 else 128 - code  # As shells report a signal.


if __name__ == '__main__':
  sys.exit(exit_codes.run(main))
