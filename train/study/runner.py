"""Runs a study: each run in a process of its own, one after the other."""

from collections.abc import Callable
import pathlib
import statistics
import time

import jax

from train import tasks
from train.config import exit_codes
from train.run import paths
from train.study import budget, comparison, figure, grid, results

# From the arguments of Python to the exit code.
Call = Callable[[list[str]], int]


class Study:
  """The runs of a study, and the results of those that are finished."""

  def __init__(self, choices: grid.Choices, folder: pathlib.Path):
    """Reads the results in `folder` and checks all runs.

    Raises:
      UsageError, ValueError, OSError, ImportError: if a run cannot be run, or
        the results are damaged.
    """
    self._folder = folder
    self._results = results.Results(folder / paths.RESULTS)
    self._runs = _runs(choices)

  def run(self, call: Call) -> tuple[int, str]:
    """Runs what has no result yet; returns an exit code and what happened."""
    known = self._results.lines
    if done := sum(identity in known for identity in self._runs):
      print(
        f'{done} of {len(self._runs)} runs are finished, as {paths.RESULTS}'
        ' says.'
      )
    for i, (identity, (run, *_)) in enumerate(self._runs.items(), 1):
      if identity in known:
        continue
      title = f'[{i}/{len(self._runs)}] {run.title}'
      print(f'{title}{self._time_left()}', flush=True)
      started = time.monotonic()
      # The identity is part of the name, so what is in the folder belongs to
      # this very run.
      folder = self._folder / f'{run.name}-{identity[:8]}'
      code = call(['-m', 'train', *run.options, '--workdir', str(folder)])
      # A run that diverged is a result, too.
      if code not in (0, exit_codes.DIVERGED):
        return code, f'{run.title} in {folder} ended with exit code {code}.'
      self._results.add(
        results.describe(
          run,
          identity,
          folder,
          wall_seconds=time.monotonic() - started,
          diverged=code == exit_codes.DIVERGED,
        )
      )
      results.lighten(folder)
    return 0, ''

  def report(self, bandwidth: float) -> bool:
    """Writes table.md and compare.png; False if no run is finished."""
    rows = comparison.rows(
      [
        (run, self._results.lines[identity])
        for identity, same in self._runs.items()
        if identity in self._results.lines
        for run in same
      ]
    )
    if not rows:
      return False
    table = comparison.table(rows, bandwidth)
    (self._folder / paths.TABLE).write_text(table, encoding='utf-8')
    best = comparison.best(rows)
    figure.draw(self._folder / paths.FIGURE, best, bandwidth)
    print(f'\n{table}\nTable and figure are in {self._folder}.')
    return True

  def _time_left(self) -> str:
    """What the unfinished runs may take, from what the finished ones took."""
    finished = [x for x in self._runs if x in self._results.lines]
    if not finished:
      return ''
    seconds = statistics.mean(
      self._results.lines[x]['wall_seconds'] for x in finished
    ) * (len(self._runs) - len(finished))
    for unit, size in (('h', 3600), ('min', 60)):
      if seconds > 2 * size:
        return f' (about {seconds / size:.0f} {unit} left)'
    return f' (about {seconds:.0f} s left)'


def _runs(choices: grid.Choices) -> dict[str, list[grid.Run]]:
  """All runs by their identity, checked. Several of them may be equal."""
  # The memory of an accelerator belongs to the runs.
  jax.config.update('jax_platforms', 'cpu')
  # All entries have the same data, model and mesh.
  config = choices.config(*choices.entries[0].options)
  if not config.mesh.replica:
    raise exit_codes.UsageError(
      'a study needs a fixed number of workers: set mesh.replica, got 0, which'
      ' takes all devices there are'
    )
  task = tasks.load(config)

  def choose(method: grid.Entry, times: float) -> grid.Knob | None:
    name = budget.knob(method.method)
    if name is None or f'compression.{name}' in dict(method.settings):
      return None
    value = budget.largest(choices.config(*method.options), task, times)
    print(f'{method.text} within {times:g}x: {name} {value:g}', flush=True)
    return grid.Knob(name, value)

  runs = grid.runs(choices, list(grid.variants(choices, choose)))
  results.check(runs, task)
  found: dict[str, list[grid.Run]] = {}
  for run in runs:
    found.setdefault(results.identity(run, task.description), []).append(run)
  return found
