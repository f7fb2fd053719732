"""Runs a study: each run in a process of its own, one after the other."""

from collections.abc import Callable
import pathlib
import statistics
import time

import jax

from train import tasks
from train.config import exit_codes
from train.run import json_files, paths
from train.study import budget, comparison, figure, grid, page, results

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
    self._runs, self._loss_unit = _runs(choices)

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
      folder = self._folder / _name(run, identity)
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
    """Writes table, figure and page; False if no run is finished."""
    lines = self._results.lines
    done = {x: runs for x, runs in self._runs.items() if x in lines}
    if not done:
      return False
    rows = comparison.rows(
      [(run, lines[x]) for x, same in done.items() for run in same]
    )
    table = comparison.table(rows, bandwidth)
    json_files.write_text(self._folder / paths.TABLE, table)
    best = comparison.best(rows)
    figure.draw(self._folder / paths.FIGURE, best, bandwidth)
    html = page.render(
      self._folder.resolve().name,
      rows,
      [
        page.Finished(run, lines[x], self._report_of(run, x))
        for x, (run, *_) in done.items()
      ],
      bandwidth=bandwidth,
      unit=self._loss_unit,
    )
    json_files.write_text(self._folder / paths.REPORT, html)
    print(
      f'\n{table}\nTable and figure are in {self._folder}.'
      f'\nThe same with the curves of every run: {self._folder / paths.REPORT}'
    )
    return True

  def _report_of(self, run: grid.Run, identity: str) -> str | None:
    """The path of the run's own page from here, if it is still there."""
    path = f'{_name(run, identity)}/{paths.REPORT}'
    return path if (self._folder / path).exists() else None

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


def _name(run: grid.Run, identity: str) -> str:
  """The name of its folder; what is in there belongs to this very run."""
  return f'{run.name}-{identity[:8]}'


def _runs(choices: grid.Choices) -> tuple[dict[str, list[grid.Run]], str]:
  """All runs by their identity, checked, and the unit of their loss.

  Several runs may be equal.
  """
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
  if not runs:
    raise exit_codes.UsageError(
      'a study needs at least one run, but every method is left out: see the'
      ' lines above, and lower --budgets'
    )
  results.check(runs, task)
  found: dict[str, list[grid.Run]] = {}
  for run in runs:
    found.setdefault(results.identity(run, task.description), []).append(run)
  return found, task.loss_unit
