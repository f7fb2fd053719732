"""How long averaging takes: this library against PyTorch, on links of any rate.

`python -m benchmarks.averaging` gives workers on 2 and 4 simulated hosts the
gradients of a LLaMA's matrices and times only their averaging: by this library,
by dense DDP, and by DDP with PyTorch's PowerSGD hook. All of them run at the
same time and take turns, ten steps each. The time of a step is that of the
slowest worker, with one core each on two hosts and half a core on four; bytes
are those of the network cards. It appends one line per turn to results.jsonl
and then writes RESULTS.md and a figure. Rerun the same command to resume.

Needs root, iproute2, PyTorch (`make .venv/peers`) and a quiet machine.
"""

import argparse
import itertools
import json
import pathlib
import sys
from typing import Any, NamedTuple

from rich import progress

from benchmarks.averaging import crew as crew_lib
from benchmarks.averaging import report
from benchmarks.network import hosts as hosts_lib
from train.config import exit_codes
from train.run import json_files
from train.study import commit

_OURS, _DDP, _HOOK = 'ours', 'theirs', 'theirs, compressed'
_KEY = 'model', 'hosts', 'rate', 'number', 'side', 'method', 'kind'


class Task(NamedTuple):
  """Some steps of a turn.

  Attributes:
    crew: who takes them: a module of `benchmarks.averaging`, and a word if
      there are several crews of that module.
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
    """The module of the crew."""
    return self.crew.split(',')[0]


_TASKS = [
  Task(_OURS, 'dense', 'compress'),
  Task(_OURS, 'greedylore', 'compress'),
  Task(_OURS, 'greedylore', 'refresh', 0.3),
  Task(_OURS, 'greedylore_staggered', 'turn', 0.3),
  Task(_OURS, 'greedylore_independent', 'compress'),
  Task(_OURS, 'range_finder', 'compress'),
  Task(_OURS, 'powersgd', 'compress'),
  Task(_OURS, 'powersgd_int8', 'compress'),
  Task(_OURS, 'powersgd_int4', 'compress'),
  Task(_DDP, 'dense', 'compress'),
  Task(_HOOK, 'powersgd_hook', 'compress'),
]


class Turn(NamedTuple):
  """What is measured together."""

  model: str
  hosts: int
  rate: str
  number: int


def main() -> int:
  """Measures what is missing, and reports; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--models', nargs='+', default=['60m'])
  add('--hosts', type=int, nargs='+', default=[2, 4], help='numbers of hosts')
  add('--rates', nargs='+', default=['none', '1gbit', '100mbit'])
  add('--turns', type=int, default=3)
  add('--steps', type=int, default=10, help='of a turn')
  add('--folder', type=pathlib.Path, default=pathlib.Path(__file__).parent)
  one = 'those measured at the same time; models of 350M parameters fit one'
  methods = sorted({x.method for x in _TASKS})
  add('--crews', nargs='+', default=[_OURS, _DDP, _HOOK], help=one)
  add('--methods', nargs='+', default=methods, choices=methods, help=one)
  add('--report', action='store_true', help='report only, measure nothing')
  given = parser.parse_args()
  results = given.folder / 'results.jsonl'
  if not given.report:
    order = itertools.product(
      given.models, given.hosts, given.rates, range(given.turns)
    )
    tasks = [
      x for x in _TASKS if x.crew in given.crews and x.method in given.methods
    ]
    try:
      _measure([Turn(*x) for x in order], tasks, given.steps, results)
    except (hosts_lib.Unavailable, crew_lib.Failed) as error:
      return exit_codes.fail(error, 1)
  report.write(results, given.folder)
  return 0


def _measure(
  turns: list[Turn], tasks: list[Task], steps: int, results: pathlib.Path
) -> None:
  """Measures what is not in the file yet."""
  lines = json_files.read_lines(results)
  done = {tuple(x[name] for name in _KEY) for x in lines}
  missing = {
    turn: [x for x in tasks if (*turn, x.module, x.method, x.kind) not in done]
    for turn in turns
  }
  missing = {turn: tasks for turn, tasks in missing.items() if tasks}
  bar = progress.Progress(
    *progress.Progress.get_default_columns(), progress.TimeElapsedColumn()
  )
  with bar, results.open('a', encoding='utf-8') as file:
    shown = bar.add_task('', total=sum(map(len, missing.values())))
    show = lambda *words: bar.update(shown, description=' '.join(words))
    place = lambda turn: (turn.model, turn.hosts)
    for (model, count), group in itertools.groupby(missing, place):
      together = list(group)
      needed = {task: None for turn in together for task in missing[turn]}
      # One worker is measured next to another one that is equally busy.
      with hosts_lib.Hosts(max(count, 2)) as hosts:
        modules = {x.crew: f'benchmarks.averaging.{x.module}' for x in needed}
        crews = {
          name: crew_lib.Crew(hosts, module, model, 7000 + i, alone=count == 1)
          for i, (name, module) in enumerate(modules.items())
        }
        for task in needed:
          show(task.crew, 'compiles', task.method)
          crews[task.crew].run(task.method, task.kind, 2)
        for turn in together:
          hosts.limit(None if turn.rate == 'none' else turn.rate)
          for task in missing[turn]:
            show(*map(str, turn), task.crew, task.method, task.kind)
            found = _take(task, steps, hosts, crews[task.crew])
            file.write(json.dumps(turn._asdict() | found) + '\n')
            file.flush()
            bar.advance(shown)
        for crew in crews.values():
          crew.end()


def _take(
  task: Task, steps: int, hosts: hosts_lib.Hosts, crew: crew_lib.Crew
) -> dict[str, Any]:
  """One crew's steps, after one that does not count."""
  crew.run(task.method, task.kind, 1)
  sent = lambda: sum(hosts.sent_bytes(i) for i in range(hosts.count))
  before = sent()
  seconds = crew.run(task.method, task.kind, round(task.share * steps))
  return {
    'side': task.module,
    'method': task.method,
    'kind': task.kind,
    'seconds': [round(x, 5) for x in seconds],
    'sent': round((sent() - before) / len(seconds) / hosts.count),
    'commit': commit.current(),
  }


if __name__ == '__main__':
  sys.exit(main())
