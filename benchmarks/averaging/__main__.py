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
from collections.abc import Iterator
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
from train import command

# The modules of the crews: what (method, kind) each can do, and which part of a
# turn's steps it does.
_CREWS: dict[str, dict[tuple[str, str], float]] = {
    'ours': {
        ('dense', 'compress'): 1,
        ('greedylore', 'compress'): 1,
        ('greedylore', 'refresh'): 0.3,
        ('greedylore_shared', 'refresh'): 0.3,
        ('greedylore_staggered', 'turn'): 0.3,
        ('greedylore_independent', 'compress'): 1,
        ('range_finder', 'compress'): 1,
        ('powersgd', 'compress'): 1,
    },
    'theirs': {('dense', 'compress'): 1},
    'theirs, compressed': {('powersgd_hook', 'compress'): 1},
}
_NO_LIMIT = 'none'


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
  parser.add_argument('--report', action='store_true', help='only that')
  given = parser.parse_args(argv)
  results = pathlib.Path(given.folder) / 'results.jsonl'
  turns = [
      Turn(model, int(hosts), rate, number)
      for model, hosts, rate, number in itertools.product(
          given.models.split(','), given.hosts.split(','),
          given.rates.split(','), range(given.turns),
      )
  ]  # fmt: skip
  try:
    if not given.report:
      _measure(turns, given.steps, results)
  except (hosts_lib.Unavailable, crew_lib.Failed) as error:
    return command.fail(error, 1)
  report.write(results, pathlib.Path(given.folder))
  return 0


def _measure(turns: list[Turn], steps: int, results: pathlib.Path) -> None:
  """Takes the turns that are not in the file yet."""
  done = {
      (x['model'], x['hosts'], x['rate'], x['number'])
      for x in report.read(results)
  }
  missing = [turn for turn in turns if turn not in done]
  bar = progress.Progress(
      *progress.Progress.get_default_columns(), progress.TimeElapsedColumn()
  )
  with bar, results.open('a', encoding='utf-8') as file:
    task = bar.add_task('turns', total=len(missing))
    crews_of = lambda turn: (turn.model, turn.hosts)
    for (model, count), together in itertools.groupby(missing, crews_of):
      # One worker is measured beside another, whose core may be half of its.
      with hosts_lib.Hosts(max(count, 2)) as hosts:
        crews = {
            name: crew_lib.Crew(
                hosts, f'benchmarks.averaging.{name.split(",")[0]}', model,
                port=7000 + i, alone=count == 1,
            )
            for i, name in enumerate(_CREWS)
        }  # fmt: skip
        for name, method, kind, _ in _all():
          bar.update(task, description=f'{name}: compiles {method}')
          crews[name].run(method, kind, 2)
        for turn in together:
          bar.update(task, description=' '.join(map(str, turn)))
          hosts.limit(None if turn.rate == _NO_LIMIT else turn.rate)
          for line in _take(turn, steps, hosts, crews):
            file.write(json.dumps(line) + '\n')
          file.flush()
          bar.advance(task)
        for crew in crews.values():
          crew.end()


def _all() -> Iterator[tuple[str, str, str, float]]:
  for name, methods in _CREWS.items():
    for (method, kind), share in methods.items():
      yield name, method, kind, share


def _take(turn, steps, hosts, crews) -> Iterator[dict[str, Any]]:
  """Everybody's turn: a line each."""
  for name, method, kind, share in _all():
    crews[name].run(method, kind, 1)
    before = [hosts.sent_bytes(i) for i in range(hosts.count)]
    seconds = crews[name].run(method, kind, round(share * steps))
    after = [hosts.sent_bytes(i) for i in range(hosts.count)]
    sent = [(b - a) / len(seconds) for a, b in zip(before, after, strict=True)]
    yield turn._asdict() | {
        'side': name.split(',')[0],
        'method': method,
        'kind': kind,
        'seconds': [round(x, 5) for x in seconds],
        'sent': round(statistics.fmean(sent)),
        'commit': machine.commit(),
    }


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
