"""Seconds per step, and how much of them is computation, on links of all kinds.

`python -m benchmarks.network.links` trains a LLaMA of 4.1M parameters on 2 and
4 simulated hosts, at rates from 1 Gbit/s to 1 Mbit/s, without delay and with 50
ms in each direction: dense, by PowerSGD, and both in rounds of local steps,
each with the real trainer; and the same model in PyTorch by DDP, its
powerSGD_hook and its PostLocalSGDOptimizer, and by torchft's DiLoCo. All of
them run at the same time and take turns. A worker has one core on two hosts and
half a core on four.

The share of the time spent computing is, in rounds, the median of the steps of
a round, which are local steps, over their mean; and otherwise the step of a
worker that trains alone, measured in the same turn, over that of the method.

It appends a line per turn and method to experiments/links/results.jsonl, and
then writes table.md and a figure there. Rerun the same command to resume. A
method that would need more than --longest seconds for one message is predicted
from a faster link. Needs root, iproute2, PyTorch and torchft (`make
.venv/peers`), and a quiet machine.
"""

import argparse
import itertools
import json
import os
import pathlib
import shutil
import statistics
import sys
from typing import Any, NamedTuple

from benchmarks.averaging import crew as crew_lib
from benchmarks.network import hosts as hosts_lib
from benchmarks.network import links_report
from train.config import exit_codes
from train.run import json_files
from train.study import commit

_OURS, _THEIRS = (f'benchmarks.network.links_{x}' for x in ('ours', 'theirs'))
# Workers that take turns: their methods, and the module that runs them. A
# number is that of the steps in a round.
_CREWS = {
  'alone': _OURS,
  'dense': _OURS,
  'powersgd': _OURS,
  'dense-30': _OURS,
  'powersgd-30': _OURS,
  'powersgd_int4-30': _OURS,
  'quantize2-30': _OURS,
  'powersgd-100': _OURS,
  'powersgd_int4-100': _OURS,
  'quantize2-100': _OURS,
  'torch_alone': _THEIRS,
  'ddp': _THEIRS,
  'powersgd_hook': _THEIRS,
  'post_local_sgd-30': _THEIRS,
  'torchft_diloco-30': _THEIRS,
}
_KEY = 'hosts', 'milliseconds', 'rate', 'turn', 'method'
_TURN_SECONDS = 4.0  # Of a method that sends in every step.
_MOST_STEPS = 10
# Rounds of 100 steps are for links up to 20 Mbit/s.
_LONG_ROUND, _SLOW = 100, 2e7


class Cell(NamedTuple):
  """A turn on links of one kind."""

  hosts: int
  milliseconds: float
  rate: str
  turn: int


def main() -> int:
  """Measures what is missing, and reports; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--hosts', type=int, nargs='+', default=[2, 4], help='numbers of hosts')
  add('--rates', nargs='+', default=['10mbit', '100mbit', '1gbit', '1mbit'])
  add('--delays', type=float, nargs='+', default=[50, 0], help='milliseconds')
  add('--methods', nargs='+', default=[*_CREWS], help='in this order')
  add('--turns', type=int, default=3)
  add('--longest', type=float, default=60.0, help='seconds of a message')
  add('--folder', type=pathlib.Path, default=pathlib.Path('experiments/links'))
  add('--report', action='store_true', help='report only, measure nothing')
  given = parser.parse_args()
  results = given.folder / 'results.jsonl'
  if not given.report:
    given.folder.mkdir(parents=True, exist_ok=True)
    # After a change of the links, TCP needs a turn to find out: the turns of a
    # cell follow each other.
    cells = itertools.starmap(
      Cell,
      itertools.product(
        given.hosts, given.delays, given.rates, range(given.turns)
      ),
    )
    try:
      _measure([*cells], given.methods, given.longest, results)
    except (hosts_lib.Unavailable, crew_lib.Failed) as error:
      return exit_codes.fail(error, 1)
  links_report.write(given.folder, json_files.read_lines(results))
  return 0


def _measure(
  cells: list[Cell], methods: list[str], longest: float, results: pathlib.Path
) -> None:
  """Measures what is not in the file yet."""
  lines = json_files.read_lines(results)
  done = {tuple(x[name] for name in _KEY) for x in lines}
  missing = {
    cell: [
      x
      for x in methods
      if (*cell, x) not in done
      and (_every(x) < _LONG_ROUND or _bits(cell) < _SLOW)
    ]
    for cell in cells
  }
  missing = {cell: names for cell, names in missing.items() if names}
  run = results.parent / 'run'
  for count, group in itertools.groupby(missing, lambda cell: cell.hosts):
    together = list(group)
    needed = {name: None for cell in together for name in missing[cell]}
    shutil.rmtree(run, ignore_errors=True)
    with hosts_lib.Hosts(count) as hosts:
      crews = {}
      for i, name in enumerate(needed):
        print(f'{count} hosts: {name} starts', flush=True)
        crews[name] = _start(hosts, name, run, 7000 + i)
      for cell in together:
        hosts.limit(cell.rate)
        hosts.delay(cell.milliseconds)
        for name in missing[cell]:
          sent = [x['sent'] for x in lines if _is(x, hosts=count, method=name)]
          message = 8 * _every(name) * statistics.median(sent or [0])
          if message / _bits(cell) > longest:
            continue
          found = cell._asdict() | _take(name, hosts, crews[name])
          lines.append(found)
          with results.open('a', encoding='utf-8') as file:
            file.write(json.dumps(found) + '\n')
          print(json.dumps(found), flush=True)
      for crew in crews.values():
        crew.end()
  shutil.rmtree(run, ignore_errors=True)


def _start(
  hosts: hosts_lib.Hosts, name: str, run: pathlib.Path, port: int
) -> crew_lib.Crew:
  """The workers of a method, compiled and past their first round."""
  module = _CREWS[name]
  folder = str((run / name).resolve())
  return crew_lib.Crew(hosts, module, folder, port, alone='alone' in name)


def _take(
  name: str, hosts: hosts_lib.Hosts, crew: crew_lib.Crew
) -> dict[str, Any]:
  """Some steps of a method; a step in front lets TCP find the rate."""
  load = os.getloadavg()[0]
  sent = lambda: sum(hosts.sent_bytes(i) for i in range(hosts.count))
  steps, before = _every(name), sent()
  seconds, local = crew.run(name, 'step', steps)
  if steps == 1 and seconds < _TURN_SECONDS:
    steps, before = min(_MOST_STEPS, int(_TURN_SECONDS / seconds)), sent()
    seconds, local = crew.run(name, 'step', steps)
  return {
    'method': name,
    'seconds': round(seconds, 5),
    'median': round(local, 5),
    'steps': steps,
    'sent': round((sent() - before) / steps / hosts.count),
    'load': round(load, 2),
    'commit': commit.current(),
  }


def _every(method: str) -> int:
  """Steps in a round."""
  return int(method.partition('-')[2] or 1)


def _bits(cell: Cell) -> float:
  return hosts_lib.bits_per_second(cell.rate)


def _is(line: dict[str, Any], **values: Any) -> bool:
  return values.items() <= line.items()


if __name__ == '__main__':
  sys.exit(main())
