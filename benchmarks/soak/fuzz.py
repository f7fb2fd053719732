"""`python -m benchmarks.soak.fuzz`: damaged and hostile files, by the thousand.

Every format that the trainer reads from strangers is damaged at random: flipped
bits, cut and grown files, absurd sizes and numbers, deep nesting, paths out of
the folder, symbolic links, FIFOs, devices. Reading it must end in success or
one clear line, within a time and a bound on memory, and change no file outside
the folder. The inputs of a seed are always the same.
"""

import argparse
import collections
from collections.abc import Iterator
import dataclasses
import faulthandler
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from typing import Any

from benchmarks import machine
from benchmarks.soak.fuzz_damage import MUTATIONS
from benchmarks.soak.fuzz_formats import FORMATS, ROOT, Format

MEGABYTES = 256
"""What reading a damaged sample may take in addition to what the process
has."""
_SECONDS = 20
# Beyond this a process gets no more, so an absurd size ends it alone.
_LIMIT = 6 << 30


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of an input."""

  index: int
  what: str
  """'flip of model.safetensors'."""
  result: str
  """'read', 'refused', or a fault: 'crashed or hung', 'wrong error', 'memory',
  'changed a file outside'."""
  said: str = ''
  megabytes: float = 0.0

  @property
  def is_fault(self) -> bool:
    """Whether this must not be."""
    return self.result not in ('read', 'refused')


def fuzz(name: str, inputs: int, seed: int = 0) -> list[Outcome]:
  """What becomes of so many damaged inputs of a format, in their order."""
  found: list[Outcome] = []
  with tempfile.TemporaryDirectory() as folder:
    while len(found) < inputs:
      numbers = [str(x) for x in (seed, len(found), inputs)]
      words = ['-m', 'benchmarks.soak.fuzz', '--worker', name, folder, *numbers]
      done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        check=False,
      )
      begun = None
      for line in done.stdout.decode(errors='replace').splitlines():
        if line.startswith('begin '):
          begun = json.loads(line.removeprefix('begin '))
        elif line.startswith('end '):
          found.append(Outcome(**json.loads(line.removeprefix('end '))))
          begun = None
      if begun is not None:
        error = done.stderr.decode(errors='replace')
        code = f'exit code {done.returncode}: {error[-1500:]}'
        found.append(Outcome(**begun, result='crashed or hung', said=code))
      elif done.returncode:
        raise RuntimeError(done.stderr.decode(errors='replace')[-3000:])
  return found


def _work(name: str, root: str, seed: int, first: int, last: int) -> None:
  """Reads inputs; prints a line before and after each of them."""
  one = FORMATS[name]
  folder = pathlib.Path(root)
  sample, outside = folder / 'sample', folder / 'outside'
  if not sample.exists():
    sample.mkdir()
    one.make(sample)
  soft = resource.getrlimit(resource.RLIMIT_AS)[1]
  shutil.rmtree(folder / 'input', ignore_errors=True)
  shutil.copytree(sample, folder / 'input')
  one.read(folder / 'input')  # It has to be read without damage.
  resource.setrlimit(resource.RLIMIT_AS, (_size_of_process() + _LIMIT, soft))
  for index in range(first, last):
    rng = random.Random(f'{name} {seed} {index}')
    shutil.rmtree(folder / 'input', ignore_errors=True)
    shutil.copytree(sample, folder / 'input')
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    (outside / 'sentinel').write_text('as it was')
    what = _damage(rng, folder / 'input', outside)
    _print('begin', {'index': index, 'what': what})
    before = _state_of(folder)
    faulthandler.dump_traceback_later(_SECONDS, exit=True)
    result, said, megabytes = _outcome(one, folder / 'input')
    faulthandler.cancel_dump_traceback_later()
    if (after := _state_of(folder)) != before:
      result, said = 'changed a file outside', f'{before} {after} {said}'
    elif megabytes > MEGABYTES:
      result = 'memory'
    _print(
      'end', dataclasses.asdict(Outcome(index, what, result, said, megabytes))
    )


def _damage(
  rng: random.Random, folder: pathlib.Path, outside: pathlib.Path
) -> str:
  """Damages one file, sometimes in several ways; says which."""
  files = sorted(x for x in folder.rglob('*') if x.is_file())
  path, names = rng.choice(files), []
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    # What is not about the content is the same in every place.
    weights = [4 if i < 8 else 1 for i in range(len(MUTATIONS))]
    (name,) = rng.choices([*MUTATIONS], weights)
    if path.is_file() and not path.is_symlink():
      MUTATIONS[name](rng, path, outside)
      names.append(name)
  return f'{", ".join(names)} of {path.relative_to(folder)}'


def _outcome(one: Format, folder: pathlib.Path) -> tuple[str, str, float]:
  """Reads an input: what came of it, what was said, and megabytes."""
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  before = _megabytes('VmRSS')
  try:
    one.read(folder)
    result, said = 'read', ''
  except one.expected as error:
    from train.config import exit_codes

    result, said = 'refused', exit_codes.one_line(error)
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    result, said = 'wrong error', traceback.format_exc()[-1500:]
  return result, said, round(_megabytes('VmHWM') - before, 1)


def _state_of(folder: pathlib.Path) -> dict[str, str]:
  """What is outside the input, with the hashes of files."""
  found = {str(x.name): '' for x in folder.iterdir()}
  for path in (folder / 'outside').rglob('*'):
    if path.is_file():
      found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
  return found


def _megabytes(key: str) -> float:
  text = pathlib.Path('/proc/self/status').read_text()
  found = re.search(rf'{key}:\s+(\d+) kB', text)
  assert found
  return int(found[1]) / 1000


def _size_of_process() -> int:
  return int(_megabytes('VmSize') * 1e6)


def _print(word: str, value: dict[str, Any]) -> None:
  print(word, json.dumps(value), flush=True)


def faults(outcomes: list[Outcome]) -> Iterator[str]:
  """What must not be, one line each."""
  for x in outcomes:
    if x.is_fault:
      yield f'input {x.index} ({x.what}): {x.result}, {x.said}'


def main() -> int:
  """Prints a table; 1 if a single input led to a fault."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--inputs', type=int, default=2000)
  parser.add_argument('--seed', type=int, default=1)
  parser.add_argument('--formats', nargs='*', default=[*FORMATS])
  parser.add_argument('--worker', nargs=5, default=None)
  options = parser.parse_args()
  if options.worker:
    name, root, *numbers = options.worker
    _work(name, root, *map(int, numbers))
    return 0
  print('| format | inputs | read | refused | faults | most MB |')
  print('|---|---|---|---|---|---|')
  is_good = True
  for name in options.formats:
    found = fuzz(name, options.inputs, options.seed)
    count = collections.Counter(x.result for x in found)
    wrong = [*faults(found)]
    is_good = is_good and not wrong
    most = max(x.megabytes for x in found)
    print(
      f'| {name} | {len(found):,} | {count["read"]:,} | {count["refused"]:,} |'
      f' {len(wrong)} | {most:.0f} |',
      flush=True,
    )
    for line in wrong:
      print(f'  {line}', file=sys.stderr, flush=True)
  print(f'\nSeed {options.seed}, {machine.describe()}.')
  return 0 if is_good else 1


if __name__ == '__main__':
  sys.exit(main())
