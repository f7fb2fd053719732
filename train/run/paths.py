"""The names of the files in a work folder."""

import contextlib
import os

# Of a run and of a study.
REPORT = 'report.html'

# Of a run.
CONFIG = 'config.json'
METRICS = 'metrics.jsonl'
SUMMARY = 'summary.json'
CHECKPOINTS = 'checkpoints'
TENSORBOARD = 'tensorboard'
LOCK = 'lock'

# Of a study.
RESULTS = 'results.jsonl'
TABLE = 'table.md'
FIGURE = 'compare.png'


def default(name: str) -> str:
  """The work folder of the configuration of that name."""
  return f'runs/{name}'


def last_step(checkpoints: str | os.PathLike[str]) -> int:
  """The step of the last complete checkpoint in a folder, 0 if there is none.

  A checkpoint has its step as its name as soon as it is complete.
  """
  steps = [0]
  with contextlib.suppress(OSError):
    steps += [int(x) for x in os.listdir(checkpoints) if x.isdecimal()]
  return max(steps)
