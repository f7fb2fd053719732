"""The results of a study: results.jsonl, a line per finished run.

A line holds everything that tables and figures need. So it outlives the folder
of its run, it can be committed, and a study can continue elsewhere.
"""

import datetime
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import statistics
from typing import Any

from train import tasks
from train.config.schema import Config
from train.distributed import cluster
from train.run import checkpoint, json_files, metrics, optimizer, paths
from train.study import budget, commit, grid

Line = dict[str, Any]
# Points of the training loss that a line keeps.
_POINTS = 50
# Only for going on with a run, or as large as everything else together.
HEAVY = (paths.CHECKPOINTS, paths.TENSORBOARD)


def check(runs: list[grid.Run], task: tasks.Task) -> None:
  """Raises a ValueError for an optimizer or compression that cannot be."""
  for run in runs:
    optimizer.build(run.config, cluster.WORKER_AXIS, task)
    budget.plan(run.config, task)


def identity(run: grid.Run, description: dict[str, Any]) -> str:
  """A hash of everything that determines the numbers of a run.

  That is the identity in its checkpoints and what may change when a run is
  resumed, but changes its result: workers and held-out sequences. Keys at their
  default are left out, so a line keeps its hash when the configuration gets a
  new key. `description` is that of the task.
  """
  whole = {
    'config': _changed(checkpoint.identity(run.config)),
    'data': description,
    'workers': run.config.mesh.replica,
    'held_out': run.config.evaluation.sequences,
  }
  text = json.dumps(whole, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _changed(settings: dict[str, Any]) -> dict[str, Any]:
  """Those that differ from a new `Config`."""
  usual = json.dumps(checkpoint.identity(Config()))
  return _difference(json.loads(json.dumps(settings)), json.loads(usual))


def _difference(tree: Any, usual: Any) -> Any:
  """The entries of nested dicts that differ from others with equal keys."""
  pairs = {k: (v, usual[k]) for k, v in tree.items() if v != usual[k]}
  return {
    k: _difference(*both) if isinstance(both[0], dict) else both[0]
    for k, both in pairs.items()
  }


# What every line of a results.jsonl holds, among other things.
_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
  'identity': str,
  'seconds_per_step': _NUMBER,
  'wall_seconds': _NUMBER,
  'summary': {
    'final_eval_loss': (*_NUMBER, type(None)),
    'num_workers': int,
    'bytes_per_step': _NUMBER,
    'compression': _NUMBER,
  },
  'curve': {'evaluations': list},
}


class Results:
  """The lines of a results.jsonl, by identity."""

  def __init__(self, path: pathlib.Path):
    """Reads the file, if it exists.

    Raises:
      ValueError: if it is damaged; the message names the file and the line.
    """
    self._path = path
    self.lines: dict[str, Line] = {}
    for number, line in enumerate(json_files.read_lines(path), start=1):
      if wrong := _wrong_key(line, _TYPES):
        raise json_files.damaged_line(
          path, number, f'a result of train.compare, got a wrong {wrong!r}'
        )
      self.lines[line['identity']] = line

  def add(self, line: Line) -> None:
    """Appends a line, in the place of one that was cut off."""
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open('ab+') as file:
      file.seek(0)
      file.truncate(file.read().rfind(b'\n') + 1)
      file.write(json_files.dumps(line).encode() + b'\n')
      file.flush()
      os.fsync(file.fileno())
    self.lines[line['identity']] = line


def _wrong_key(values: Any, types: dict[str, Any]) -> str | None:
  """The first key whose value is missing or of another type."""
  for key, kind in types.items():
    value = values.get(key, ...)
    if not isinstance(value, dict if isinstance(kind, dict) else kind):
      return key
    if isinstance(kind, dict) and (wrong := _wrong_key(value, kind)):
      return f'{key}.{wrong}'
  return None


def describe(
  run: grid.Run,
  identity: str,
  folder: pathlib.Path,
  *,
  wall_seconds: float,
  diverged: bool = False,
) -> Line:
  """The line of a run that finished in `folder`, or that diverged there."""
  lines = metrics.read(folder / paths.METRICS)
  if diverged:
    summary = _summary_of_diverged(run, lines)
  else:
    summary = json_files.read(folder / paths.SUMMARY)
  return {
    'name': run.name,
    'entry': run.entry,
    'budget': run.budget,
    'knob': {run.knob.name: run.knob.value} if run.knob else {},
    'learning_rate': run.config.optimizer.learning_rate,
    'seed': run.config.seed,
    'identity': identity,
    'summary': summary,
    'curve': metrics.curves(lines, _POINTS),
    'seconds_per_step': steady_seconds(lines),
    # A run that was resumed took longer than its last process.
    'wall_seconds': max(wall_seconds, summary['seconds']),
    'commit': commit.current(),
    'date': datetime.date.today().isoformat(),
  }


def _summary_of_diverged(run: grid.Run, lines: list[Line]) -> Line:
  """The summary of a run that diverged: its losses are None."""
  last = lines[-1]
  return {
    'diverged_at': last['step'],
    'final_eval_loss': None,
    **{f'final_{x}': None for line in lines for x in line if 'eval_' in x},
    'num_workers': run.config.mesh.replica,
    'bytes_per_step': last['bytes_sent'] / last['step'],
    'compression': last['dense_bytes'] / max(last['bytes_sent'], 1),
    'seconds': max(x.get('seconds', 0.0) for x in lines),
  }


def steady_seconds(lines: list[Line]) -> float:
  """Median seconds per step over the logged lines: a pause does not count."""
  logged = [{'step': 0, 'seconds': 0.0}, *(x for x in lines if 'loss' in x)]
  return statistics.median(
    (b['seconds'] - a['seconds']) / (b['step'] - a['step'])
    for a, b in itertools.pairwise(logged)
  )


def lighten(folder: pathlib.Path) -> None:
  """Deletes what only an unfinished run needs."""
  for name in HEAVY:
    shutil.rmtree(folder / name, ignore_errors=True)
