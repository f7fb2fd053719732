"""Where the time of averaging goes, by the lines of the library.

    python -m benchmarks.profile_step [--model 60m] [--method greedylore]

One worker averages given gradients (`benchmarks.averaging`) while JAX's
profiler looks on. Every instruction of the compiled program knows the line that
it comes from; the table adds up what they take, move and compute. Bytes are
operands and results, so what a cache holds counts as moved, and an in-place
update as whole.
"""

import argparse
import collections
import dataclasses
import linecache
import math
import os
import pathlib
import re
import tempfile

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import jax

from benchmarks.averaging import ours

_STEPS = 5
_INSTRUCTION = re.compile(
  r'^ +(?:ROOT )?%(?P<name>\S+) = (?P<result>.+?) (?P<opcode>[\w-]+)\('
  r'(?P<operands>[^)]*)\)(?P<rest>.*)$'
)
_COMPUTATION = re.compile(r'^(?:ENTRY )?%(\S+) \(')
_ARRAY = re.compile(r'\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')
_TABLES = 'FileNames', 'FunctionNames', 'FileLocations', 'StackFrames'
# These contain others, which are counted themselves.
_OUTER = {'while', 'call', 'conditional'}
# Helpers: who calls them is of interest.
_HELPERS = {'thin_product', 'take_columns', 'on_each_device', 'run'}


@dataclasses.dataclass
class Cost:
  """What instructions take in a step."""

  seconds: float = 0.0
  count: int = 0
  bytes: int = 0
  flops: int = 0


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', default='60m')
  parser.add_argument('--method', default='greedylore')
  parser.add_argument('--kind', default='compress')
  given = parser.parse_args()
  worker = ours.Worker(given.model, jax.devices()[:1])
  worker.run(given.method, given.kind, 3)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      seconds = worker.run(given.method, given.kind, _STEPS)
    (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
    profile = jax.profiler.ProfileData.from_file(str(path))
    taken = _taken(profile)
  program = Program(worker.step.lower(worker.grads, worker.state).compile())
  costs: dict[str, Cost] = collections.defaultdict(Cost)
  for name, (duration, count) in taken.items():
    if name not in program.places:
      continue
    cost = costs[program.places[name]]
    cost.seconds += duration / _STEPS
    cost.count += round(count / _STEPS)
    cost.bytes += program.bytes[name] * count // _STEPS
    cost.flops += program.flops[name] * count // _STEPS
  _print(given, seconds, costs)


def _taken(profile: jax.profiler.ProfileData) -> dict[str, tuple[float, int]]:
  """Instruction -> seconds in all, and how often."""
  found: dict[str, tuple[float, int]] = {}
  for plane in profile.planes:
    for line in plane.lines:
      for event in line.events:
        seconds, count = found.get(event.name, (0.0, 0))
        found[event.name] = seconds + event.duration_ns / 1e9, count + 1
  return found


class Program:
  """The instructions of a compiled program, by name.

  Attributes:
    places: the line of the library from which each comes (or the last one
      within, of what does not know).
    bytes: of operands and results.
    flops: of the products in each.
  """

  def __init__(self, compiled: jax.stages.Compiled):
    self._lines = compiled.as_text().splitlines()
    self._frames = self._tables()
    self.places: dict[str, str] = {}
    self.bytes: dict[str, int] = {}
    self.flops: dict[str, int] = {}
    shapes: dict[str, str] = {}
    within: dict[str, int] = collections.Counter()
    called: dict[str, str] = {}
    inner: dict[str, str] = {}
    computation = ''
    for line in self._lines:
      if opened := _COMPUTATION.match(line):
        computation = opened[1]
      if not (found := _INSTRUCTION.match(line)):
        continue
      name = found['name']
      operands = re.findall(r'%([^\s,]+)', found['operands'])
      shapes[name] = found['result']
      if found['opcode'] in _OUTER:
        continue
      if place := self._place(found['rest']):
        self.places[name] = place
        inner[computation] = place
      self.bytes[name] = sum(
        _size(shapes.get(x, '')) for x in [name, *operands]
      )
      self.flops[name] = 0
      if found['opcode'] == 'dot':
        self.flops[name] = _products(found, shapes, operands)
        within[computation] += self.flops[name]
      if to := re.search(r'calls=%([^\s,]+)', found['rest']):
        called[name] = to[1]
    for name in self.flops:
      to = called.get(name, '')
      self.flops[name] += within[to]
      place = inner.get(to, 'copies and the like, made by XLA')
      self.places.setdefault(name, place)

  def _tables(self) -> dict[str, list[tuple[str, str, int]]]:
    """Stack frame -> (file, function, line) of it and its callers."""
    rows: dict[str, dict[str, str]] = collections.defaultdict(dict)
    section = ''
    for line in self._lines:
      if line in _TABLES:
        section = line
      elif section and (row := re.match(r'(\d+) (.*)', line)):
        rows[section][row[1]] = row[2].strip('"')
      elif section == 'StackFrames' and not line.strip():
        break
    number = lambda key, text: re.search(rf'{key}=(\d+)', text)[1]  # type: ignore[index]
    frames: dict[str, list[tuple[str, str, int]]] = {}
    for i, text in rows['StackFrames'].items():
      location = rows['FileLocations'][number('file_location_id', text)]
      own = (
        rows['FileNames'][number('file_name_id', location)],
        rows['FunctionNames'][number('function_name_id', location)],
        int(number('line', location)),
      )
      # Counted from 1 as all the tables, but 1 stands for none.
      parent = str(int(number('parent_frame_id', text)) - 1)
      frames[i] = [own, *frames.get(parent, [])]
    return frames

  def _place(self, rest: str) -> str:
    frame = re.search(r'stack_frame_id=(\d+)', rest)
    for file, function, line in self._frames[frame[1]] if frame else []:
      helper = function.split('.')[-1] in _HELPERS
      if 'greedylore_jax/' in file and not helper:
        name = pathlib.Path(file).stem.strip('_')
        return f'{name}: {linecache.getline(file, line).strip()}'
    return ''


def _size(shape: str) -> int:
  """Bytes of an array, or of all of a tuple."""
  return sum(
    math.prod(map(int, filter(None, sides.split(',')))) * (int(bits or 8) // 8)
    for _, bits, sides in _ARRAY.findall(shape)
  )


def _products(found, shapes, operands) -> int:
  """Two operations per number of the result and of the sum that makes it."""
  sides = lambda shape: [
    int(x) for x in _ARRAY.findall(shape)[0][2].split(',') if x
  ]
  along = re.search(r'lhs_contracting_dims={([\d,]*)}', found['rest'])
  left = sides(shapes[operands[0]])
  summed = math.prod(left[int(i)] for i in along[1].split(',')) if along else 1
  return 2 * math.prod(sides(found['result'])) * summed


def _print(given, seconds: list[float], costs: dict[str, Cost]) -> None:
  whole = sum(seconds) / len(seconds)
  print(
    f'{given.method}, {given.kind}, {given.model}: {1e3 * whole:.0f} ms a'
    ' step with the profiler,'
    f' {1e3 * sum(x.seconds for x in costs.values()):.0f} ms in'
    ' instructions.\n'
  )
  print('| ms | instructions | MB | GB/s | GFLOP | GFLOP/s | line |')
  print('|---|---|---|---|---|---|---|')
  for place, x in sorted(costs.items(), key=lambda row: -row[1].seconds):
    if x.seconds < whole / 200:
      continue
    print(
      f'| {1e3 * x.seconds:.1f} | {x.count} | {x.bytes / 1e6:.1f} |'
      f' {x.bytes / x.seconds / 1e9:.1f} | {x.flops / 1e9:.2f} |'
      f' {x.flops / x.seconds / 1e9:.0f} | `{place}` |'
    )


if __name__ == '__main__':
  main()
