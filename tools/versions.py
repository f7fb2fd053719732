"""Runs the tests and the quickstart on the lowest and the newest versions.

  python tools/versions.py PYTHON... [--versions lowest|newest] [--core]

`make test-versions` passes every Python from 3.11 to 3.14 that the machine has.
For each of them, and for the lowest and the newest versions that pyproject.toml
allows, this makes an environment in .venvs/, takes the first steps of the
quickstart and runs the tests that need no trainer. It prints a table and exits
with 1 if anything failed. The output of each command is in .venvs/*.log.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENTS = ROOT / '.venvs'
VERSIONS = ['lowest', 'newest']
# A warm-up, a refresh, compressed steps, evaluations and checkpoints.
QUICKSTART = [
  '-m',
  'train',
  'configs/quickstart.py',
  '--steps',
  '20',
  '--compression.start_step',
  '8',
  '--compression.update_interval',
  '8',
  '--evaluation.every',
  '10',
  '--checkpoint.every',
  '10',
]
# Tests of the trainer import one of these.
TRAINER = re.compile(
  r'^ *(from|import) (train|runs|texts|labeled|benchmarks|experiments)\b',
  re.MULTILINE,
)
# A few fast files that run every method and every form of step.
CORE = [
  'plan/test_collectives.py',
  'transformation/test_empty.py',
  'transformation/test_faults.py',
  'transformation/test_golden.py',
  'transformation/test_optax_contract.py',
]


class Result(NamedTuple):
  """Of a command: whether it passed, what pytest counted, and its time."""

  passed: bool
  counts: str
  seconds: float

  def __str__(self) -> str:
    verdict = 'passed' if self.passed else 'FAILED'
    return f'{self.counts or verdict}, {self.seconds:.0f} s'


def main(argv: list[str]) -> int:
  """Tests what the command line names; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('pythons', nargs='+', metavar='PYTHON')
  parser.add_argument('--versions', choices=VERSIONS)
  parser.add_argument('--core', action='store_true', help='fewer tests')
  options = parser.parse_args(argv)
  tests = CORE if options.core else library_tests()
  checked = [
    check(python, versions, tests)
    for python in options.pythons
    for versions in ([options.versions] if options.versions else VERSIONS)
  ]
  header = ['Python', 'versions', 'installed', 'first steps', 'library tests']
  rows = [header, ['---'] * len(header), *(row for row, _ in checked)]
  print('\n' + '\n'.join(f'| {" | ".join(row)} |' for row in rows))
  return int(not all(passed for _, passed in checked))


def check(
  python: str, versions: str, tests: list[str]
) -> tuple[list[str], bool]:
  """A row of the table, and whether everything passed."""
  version = printed(python, 'import platform; print(platform.python_version())')
  folder = ENVIRONMENTS / f'{version}-{versions}'
  print(f'Python {version}, {versions} versions, {folder}', flush=True)
  own = str(folder / 'bin' / 'python')
  installed = install(python, folder, versions)
  if not installed.passed:
    return [version, versions, str(installed), '', ''], False
  found = printed(
    own,
    'from importlib.metadata import version\n'
    'for x in ("jax", "optax", "flax"): print(x, version(x))',
  )
  with tempfile.TemporaryDirectory() as workdir:
    steps = run([own, *QUICKSTART, '--workdir', workdir], folder, 'quickstart')
  files = [f'tests/{name}' for name in tests]
  pytest = [own, '-m', 'pytest', '-p', 'no:cacheprovider', *files]
  tested = run(pytest, folder, 'tests')
  row = [version, versions, ', '.join(found.splitlines())]
  return [*row, str(steps), str(tested)], steps.passed and tested.passed


def library_tests() -> list[str]:
  """The test files that need no trainer, nor the tools of `make lint`."""
  return [
    str(path.relative_to(ROOT / 'tests'))
    for path in sorted((ROOT / 'tests').rglob('test_*.py'))
    if not TRAINER.search(path.read_text(encoding='utf-8'))
    and path.name != 'test_house.py'
  ]


def install(python: str, folder: pathlib.Path, versions: str) -> Result:
  """Makes the environment, or brings the one that exists up to date."""
  if not (folder / 'bin' / 'python').exists():
    subprocess.run([python, '-m', 'venv', folder], check=True)
  pip = [str(folder / 'bin' / 'python'), '-m', 'pip', 'install', '--upgrade']
  if versions == 'lowest':
    constraints = folder / 'lowest.txt'
    constraints.write_text('\n'.join(lowest()), encoding='utf-8')
    pip += ['--constraint', str(constraints)]
  else:
    pip += ['--upgrade-strategy', 'eager']
  wanted = ['pytest', 'pytest-timeout', '--editable', '.[train]']
  return run([*pip, *wanted], folder, 'install')


def lowest() -> list[str]:
  """Pins for pip: everything that pyproject.toml bounds, at its bound."""
  text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
  project = tomllib.loads(text)['project']
  extras = project['optional-dependencies'].values()
  wanted = [x for many in (project['dependencies'], *extras) for x in many]
  bound = re.compile(r'([\w-]+) *>= *([\d.]+)')
  return [f'{m[1]}=={m[2]}' for m in map(bound.match, wanted) if m]


def run(command: list[str], folder: pathlib.Path, name: str) -> Result:
  """Runs a command, its output in a file; prints the end of it on a failure."""
  log = folder.with_name(f'{folder.name}-{name}.log')
  start = time.monotonic()
  with log.open('w', encoding='utf-8') as file:
    code = subprocess.run(
      command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False
    ).returncode
  seconds = time.monotonic() - start
  lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
  if code:
    print(*lines[-30:], f'exit code {code}, see {log}', sep='\n', flush=True)
  counts = re.findall(r'\d+ (?:passed|failed|error)', ''.join(lines[-1:]))
  return Result(code == 0, ', '.join(counts), seconds)


def printed(python: str, program: str) -> str:
  """What a program prints."""
  done = subprocess.run(
    [python, '-c', program], capture_output=True, text=True, check=True
  )
  return done.stdout.strip()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
