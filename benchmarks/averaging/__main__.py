"""How long averaging takes: ours against PyTorch's, on links of any rate.

`python -m benchmarks.averaging` gives workers on 2 and 4 hosts
(`benchmarks.hosts`) gradients of LLaMA's shapes and times nothing but their
averaging: ours, and DDP dense and with PyTorch's PowerSGD hook. All of them
live at the same time and take turns, ten steps each. Steps are the slowest
worker's, a core each on two hosts and half a one on four; bytes are those of
the network cards. It writes a line per turn to results.jsonl and goes on where
it was, then RESULTS.md and a figure.

Needs root, iproute2, PyTorch (`make .venv/peers`) and a quiet machine.
"""

import argparse
from collections.abc import Iterable
import itertools
import json
import pathlib
import statistics
import sys
from typing import Any
from typing import NamedTuple

from rich import progress

from benchmarks import hosts as hosts_lib
from benchmarks import machine
from benchmarks.averaging import crew as crew_lib
from benchmarks.averaging import report
from train.config import exit_codes

_OURS, _DDP, _HOOK = 'ours', 'theirs', 'theirs, compressed'
_NO_LIMIT = 'none'
_KEY = 'model', 'hosts', 'rate', 'number', 'side', 'method', 'kind'


class Task(NamedTuple):
  """Some steps of a turn.

  Attributes:
    crew: who takes them; a module of `benchmarks.averaging`, and what tells it
      from others of that module.
    method: of averaging.
    kind: of step.
    share: of the turn's steps.
  """

  crew: str
  method: str
  kind: str
  share: float = 1.0

  @property
  def module(self) -> str:
    """Whose code."""
    return self.crew.split(',')[0]


_TASKS = [
  Task(_OURS, 'dense', 'compress'),
  Task(_OURS, 'greedylore', 'compress'),
  Task(_OURS, 'greedylore', 'refresh', 0.3),
  Task(_OURS, 'greedylore_shared', 'refresh', 0.3),
  Task(_OURS, 'greedylore_staggered', 'turn', 0.3),
  Task(_OURS, 'greedylore_independent', 'compress'),
  Task(_OURS, 'range_finder', 'compress'),
  Task(_OURS, 'powersgd', 'compress'),
  Task(_DDP, 'dense', 'compress'),
  Task(_HOOK, 'powersgd_hook', 'compress'),
]


class Turn(NamedTuple):
  """What is measured together."""

  model: str
  hosts: int
  rate: str
  number: int


def main(argv: list[str]) -> int:
  """Measures what is missing, and reports; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--models', default='60m')
  parser.add_argument('--hosts', default='2,4')
  parser.add_argument('--rates', default='none,1gbit,100mbit')
  parser.add_argument('--turns', type=int, default=3)
  parser.add_argument('--steps', type=int, default=10, help='of a turn')
  parser.add_argument('--folder', default='benchmarks')
  parser.add_argument(
    '--crews',
    nargs='+',
    default=[_OURS, _DDP, _HOOK],
    help='who is there at the same time; models of 350M need one at a time',
  )
  methods = sorted({x.method for x in _TASKS})
  parser.add_argument(
    '--methods',
    nargs='+',
    default=methods,
    choices=methods,
    help='of averaging; models of 350M leave room for one at a time',
  )
  parser.add_argument('--report', action='store_true', help='only that')
  given = parser.parse_args(argv)
  results = pathlib.Path(given.folder) / 'results.jsonl'
  turns = [
    Turn(model, int(hosts), rate, number)
    for model, hosts, rate, number in itertools.product(
      given.models.split(','),
      given.hosts.split(','),
      given.rates.split(','),
      range(given.turns),
    )
  ]
  try:
    if not given.report:
      tasks = [
        x for x in _TASKS if x.crew in given.crews and x.method in given.methods
      ]
      _measure(turns, tasks, given.steps, results)
  except (hosts_lib.Unavailable, crew_lib.Failed) as error:
    return exit_codes.fail(error, 1)
  report.write(results, pathlib.Path(given.folder))
  return 0


def _measure(
  turns: list[Turn], tasks: list[Task], steps: int, results: pathlib.Path
) -> None:
  """Takes what is not in the file yet."""
  done = {tuple(x[name] for name in _KEY) for x in report.read(results)}
  missing = {
    turn: [
      task
      for task in tasks
      if (*turn, task.module, task.method, task.kind) not in done
    ]
    for turn in turns
  }
  missing = {turn: tasks for turn, tasks in missing.items() if tasks}
  bar = progress.Progress(
    *progress.Progress.get_default_columns(), progress.TimeElapsedColumn()
  )
  with bar, results.open('a', encoding='utf-8') as file:
    shown = bar.add_task('', total=sum(map(len, missing.values())))
    tell = lambda *words: bar.update(shown, description=' '.join(words))
    place = lambda turn: (turn.model, turn.hosts)
    for (model, count), together in itertools.groupby(missing, place):
      together = list(together)
      needed = {task: None for turn in together for task in missing[turn]}
      # One worker is measured beside another, who is as busy.
      with hosts_lib.Hosts(max(count, 2)) as hosts:
        found = _crews(hosts, model, needed, alone=count == 1)
        for task in needed:
          tell(task.crew, 'compiles', task.method)
          found[task.crew].run(task.method, task.kind, 2)
        for turn in together:
          hosts.limit(None if turn.rate == _NO_LIMIT else turn.rate)
          for task in missing[turn]:
            tell(*map(str, turn), task.crew, task.method, task.kind)
            line = _take(turn, task, steps, hosts, found[task.crew])
            file.write(json.dumps(line) + '\n')
            file.flush()
            bar.advance(shown)
        for crew in found.values():
          crew.end()


def _crews(
  hosts: hosts_lib.Hosts, model: str, tasks: Iterable[Task], alone: bool
) -> dict[str, crew_lib.Crew]:
  """Everybody who is needed."""
  modules = {task.crew: f'benchmarks.averaging.{task.module}' for task in tasks}
  return {
    name: crew_lib.Crew(hosts, module, model, port=7000 + i, alone=alone)
    for i, (name, module) in enumerate(modules.items())
  }


def _take(turn, task, steps, hosts, crew) -> dict[str, Any]:
  """One crew's steps, after one that does not count."""
  crew.run(task.method, task.kind, 1)
  before = [hosts.sent_bytes(i) for i in range(hosts.count)]
  seconds = crew.run(task.method, task.kind, round(task.share * steps))
  after = [hosts.sent_bytes(i) for i in range(hosts.count)]
  sent = [(b - a) / len(seconds) for a, b in zip(before, after, strict=True)]
  return turn._asdict() | {
    'side': task.module,
    'method': task.method,
    'kind': task.kind,
    'seconds': [round(x, 5) for x in seconds],
    'sent': round(statistics.fmean(sent)),
    'commit': machine.commit(),
  }


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
