"""`python -m benchmarks.soak.goodput`: how much of a run do failures cost?

Two equal runs train at the same time, each on its own simulated hosts that
share no disk, with one launcher and one process per host. One is undisturbed.
In the other, a host is hit every two minutes, chosen at random:

- kill: SIGKILL for its process and its launcher, which is started again at
  once, as a scheduler would do.
- cut: its link is down for 20 s.
- slow: its link has a tenth of the rate for 20 s.

Goodput is the useful steps per second of the disturbed run over those of the
other, while both run. Both have to end with the same bits. Needs root, see
benchmarks.network.hosts.

On CPUs, JAX's compilation cache serves process 0 only. Here it serves all
processes, as on GPUs; --one_cache disables that.
"""

import argparse
from collections.abc import Iterator
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
from typing import Any

import matplotlib

from benchmarks import machine
from benchmarks.network import hosts as hosts_lib
from benchmarks.soak import kills

matplotlib.use('Agg')
import matplotlib.pyplot as plt

CONFIG = 'configs/studies/soak.py'
KINDS = 'kill', 'cut', 'slow'
SECONDS = 20.0
_EVERY_PROCESS = pathlib.Path(__file__).parent / 'every_process'
_PORT = 7700  # Free: every host has its own network.
# TCP retries every second, where Linux knows that (6.15), and for long enough.
_RETRY = """
cd /proc/sys/net/ipv4
! test -e tcp_rto_max_ms || echo 1000 >tcp_rto_max_ms && echo 100 >tcp_retries2
"""
_OPTIONS = {
  'compression.method': 'quantize',
  'compression.bits': 4,
  'local.every': 4,
  'log.every': 4,
  'agreement.every': 0,
  'distributed.heartbeat_timeout': 100,
}


class Run:
  """A run on hosts of its own.

  Attributes:
    steps: (seconds, last step) whenever that has changed.
  """

  def __init__(
    self,
    hosts: hosts_lib.Hosts,
    folder: pathlib.Path,
    options: dict[str, Any],
    environment: dict[str, str],
  ):
    """Starts a launcher on each host.

    Args:
      hosts: the simulated hosts.
      folder: for everything that the run writes.
      options: keys of the trainer's configuration.
      environment: further variables of the launchers.
    """
    self._hosts, self._folder = hosts, folder
    self._environment = environment
    self._options = options | {'mesh.replica': hosts.count}
    self.steps: list[tuple[float, int]] = [(time.monotonic(), 0)]
    for i in range(hosts.count):
      hosts.run(i, ['sh', '-c', _RETRY])
    self.launchers = [self._start(i) for i in range(hosts.count)]
    self.files = kills.Run(folder / 'host0', [], {})

  def _start(self, i: int) -> Any:
    own = self._folder / f'host{i}'
    own.mkdir(parents=True, exist_ok=True)
    words = self._options | {'workdir': own, 'checkpoint.local': own / 'copies'}
    with (own / 'output.txt').open('ab') as output:
      return self._hosts.popen(
        i,
        [
          *(sys.executable, '-m', 'train.launch', CONFIG, '--elastic'),
          f'--rendezvous={self._hosts.address(0)}:{_PORT}',
          *(f'--hosts={self._hosts.count}', f'--host={i}', '--num_processes=1'),
          *(f'--{key}={value}' for key, value in words.items()),
        ],
        env=os.environ
        | machine.ENVIRONMENT
        | self._environment
        | {
          'GREEDYLORE_TOKEN': 'of a run on simulated hosts',
          'JAX_COMPILATION_CACHE_DIR': str(self._folder.parent / 'compiled'),
          'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        },
        stdout=output,
        stderr=output,
      )

  def look(self) -> int:
    """Notes the last step, and returns it."""
    if (step := _last_step(self.files.workdir)) != self.steps[-1][1]:
      self.steps.append((time.monotonic(), step))
    return step

  def is_done(self) -> bool:
    """Whether all launchers have ended as they should.

    Raises:
      RuntimeError: if one has not.
    """
    codes = [launcher.poll() for launcher in self.launchers]
    if any(codes):
      said = self._folder / f'host{codes.index(max(filter(None, codes)))}'
      text = (said / 'output.txt').read_text(encoding='utf-8')
      raise RuntimeError(f'launchers ended with {codes}: {text[-3000:]}')
    return None not in codes

  def hit(self, kind: str, i: int) -> None:
    """Begins a fault of host i."""
    if kind == 'kill':
      launcher = self.launchers[i]
      for child in _children(launcher.pid):
        with contextlib.suppress(ProcessLookupError):
          os.kill(child, signal.SIGKILL)
      os.killpg(launcher.pid, signal.SIGKILL)
      launcher.wait()
      self.launchers[i] = self._start(i)
    elif kind == 'cut':
      self._hosts.connect(i, False)
    else:
      self._hosts.slow_down(i, 10)

  def mend(self, kind: str, i: int) -> None:
    """Ends it."""
    if kind == 'cut':
      self._hosts.connect(i, True)
    elif kind == 'slow':
      self._hosts.slow_down(i, 1)

  def steps_between(self, begin: float, end: float) -> int:
    """Useful steps in a time: those that are lost later do not count twice."""
    at = lambda time: max((x for t, x in self.steps if t <= time), default=0)
    return at(end) - at(begin)


@dataclasses.dataclass
class Fault:
  """A host that was hit."""

  kind: str
  host: int
  begin: float
  step: int
  """The last one before."""
  is_mended: bool = False


def main() -> int:
  """Prints the results; 1 if the runs do not end with the same bits."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--hosts', type=int, default=2)
  parser.add_argument('--rate', default='10mbit')
  parser.add_argument('--milliseconds', type=float, default=20)
  parser.add_argument('--steps', type=int, default=9000)
  parser.add_argument('--checkpoint_every', type=int, default=20)
  parser.add_argument('--fault_every', type=float, default=120)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--one_cache',
    action='store_true',
    help='for process 0, as in JAX on CPUs; the others compile at each restart',
  )
  parser.add_argument('--figure', type=pathlib.Path, help='a .png to draw')
  parser.add_argument('--folder', type=pathlib.Path, help='kept, for its logs')
  given = parser.parse_args()
  options = _OPTIONS | {
    'steps': given.steps,
    'batch_size': 2 * given.hosts,
    'checkpoint.every': given.checkpoint_every,
  }
  environment = {} if given.one_cache else {'PYTHONPATH': str(_EVERY_PROCESS)}
  links = given.hosts, given.rate, given.milliseconds
  with (
    tempfile.TemporaryDirectory() as name,
    hosts_lib.Hosts(*links) as quiet,
    hosts_lib.Hosts(*links) as shaken,
  ):
    folder = given.folder or pathlib.Path(name)
    whole = Run(quiet, folder / 'whole', options, environment)
    hit = Run(shaken, folder / 'hit', options, environment)
    faults = _watch(whole, hit, _faults(given.hosts, given.seed), given)
    same = whole.files.numbers() == hit.files.numbers()
    same = same and _sums(folder / 'whole') == _sums(folder / 'hit')
  print(_report(whole, hit, faults))
  if given.figure:
    _draw(given.figure, whole, hit, faults)
  print(
    f'Final parameters, optimizer states and metrics are'
    f' {"the same" if same else "NOT the same"}, bit by bit'
    f' ({machine.describe()}).'
  )
  return 0 if same else 1


def _faults(hosts: int, seed: int) -> Iterator[tuple[str, int]]:
  """Kinds in random order, each as often as the others, and random hosts."""
  chosen = random.Random(seed)
  while True:
    for kind in chosen.sample(KINDS, len(KINDS)):
      yield kind, chosen.randrange(hosts)


def _watch(
  whole: Run,
  hit: Run,
  coming: Iterator[tuple[str, int]],
  given: argparse.Namespace,
) -> list[Fault]:
  """Disturbs one run until both have ended."""
  faults: list[Fault] = []
  due = float('inf')
  # Before a host is hit for the first time, both have compiled everything.
  warm = 2 * given.checkpoint_every
  while not (hit.is_done() and whole.is_done()):
    step, now = hit.look(), time.monotonic()
    if whole.look() >= warm <= step and due == float('inf'):
      due = now + given.fault_every / 2
    if faults and not faults[-1].is_mended:
      if now > faults[-1].begin + SECONDS:
        hit.mend(faults[-1].kind, faults[-1].host)
        faults[-1].is_mended = True
    elif now > due and step < given.steps and None in _codes(hit):
      kind, host = next(coming)
      faults.append(Fault(kind, host, now, step))
      hit.hit(kind, host)
      due = now + given.fault_every
      print(f'step {step}: {kind} host {host}', flush=True)
    time.sleep(0.05)
  whole.look()
  hit.look()
  return faults


def _codes(run: Run) -> list[int | None]:
  return [launcher.poll() for launcher in run.launchers]


def _report(whole: Run, hit: Run, faults: list[Fault]) -> str:
  """The goodput, and what each fault cost."""
  lines = ['| fault | host | after step | seconds until the next new step |']
  lines.append('|---|---|---|---|')
  for fault in faults:
    after = next(
      (t for t, step in hit.steps if t > fault.begin and step > fault.step),
      float('nan'),
    )
    seconds = after - fault.begin
    lines.append(
      f'| {fault.kind} | {fault.host} | {fault.step} | {seconds:.1f} |'
    )
  # While both run: afterwards, the machine has less to do.
  begin = max(run.steps[1][0] for run in (whole, hit))
  end = min(run.steps[-1][0] for run in (whole, hit))
  useful, possible = (run.steps_between(begin, end) for run in (hit, whole))
  minutes = (end - begin) / 60
  struck = sum(fault.begin < end for fault in faults)
  lines.append(
    f'\nIn {minutes:.1f} minutes with {struck} faults: {useful:,} useful steps,'
    f' undisturbed {possible:,}; goodput {100 * useful / possible:.1f} %. There'
    f' were {len(faults)} faults in all {hit.steps[-1][1]:,} steps.'
  )
  return '\n'.join(lines)


def _draw(
  path: pathlib.Path, whole: Run, hit: Run, faults: list[Fault]
) -> None:
  """Steps of both runs against minutes, and a line for each fault."""
  begin = max(run.steps[1][0] for run in (whole, hit))
  figure, ax = plt.subplots(figsize=(8, 4), layout='constrained')
  for run, name, color in (
    (whole, 'undisturbed', '#999999'),
    (hit, 'with faults', '#2171b5'),
  ):
    # A restart repeats the steps since the last checkpoint.
    useful = [*itertools.accumulate((x for _, x in run.steps), max)]
    minutes = [(t - begin) / 60 for t, _ in run.steps]
    ax.step(minutes, useful, where='post', label=name, color=color)
  for fault in faults:
    at = (fault.begin - begin) / 60
    ax.axvline(at, color='#cb181d', lw=0.8, ls=':')
    ax.annotate(
      fault.kind,
      (at, 1),
      xycoords=('data', 'axes fraction'),
      rotation=90,
      xytext=(2, -4),
      textcoords='offset points',
      va='top',
      color='#cb181d',
    )
  ax.set(
    xlabel='minutes', ylabel='useful steps', xlim=(0, None), ylim=(0, None)
  )
  ax.spines[['top', 'right']].set_visible(False)
  ax.legend(loc='lower right', frameon=False)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def _last_step(workdir: pathlib.Path) -> int:
  """The step of the last complete line of metrics.jsonl, 0 without one."""
  with contextlib.suppress(OSError, ValueError, IndexError):
    with (workdir / 'metrics.jsonl').open('rb') as file:
      file.seek(max(file.seek(0, os.SEEK_END) - 2000, 0))
      *_, line, _ = file.read().split(b'\n')
    return int(json.loads(line)['step'])
  return 0


def _children(pid: int) -> list[int]:
  path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
  return [*map(int, path.read_text(encoding='utf-8').split())]


def _sums(folder: pathlib.Path) -> list[dict[str, int]]:
  """The checksums of the arrays in the last copy of every host."""
  found = []
  for copies in sorted(folder.glob('host*/copies/0')):
    last = max(int(x.name) for x in copies.iterdir() if x.name.isdecimal())
    text = (copies / str(last) / 'notes.json').read_text(encoding='utf-8')
    notes = json.loads(text)
    found.append({name: notes['checksums'][name] for name in notes['arrays']})
  return found


if __name__ == '__main__':
  sys.exit(main())
