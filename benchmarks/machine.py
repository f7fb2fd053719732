"""On what, and with which code, something was measured."""

import datetime
import pathlib
import platform
import subprocess

import jax

# XLA's CPU client asks for its buffers anew in every step: pages are large, and
# what is freed stays with the process. Otherwise much of a step is page faults.
ALLOCATOR = {
  'GLIBC_TUNABLES': (
    'glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1'
    f':glibc.malloc.mmap_threshold={1 << 34}'
    f':glibc.malloc.trim_threshold={1 << 34}'
  )
}


def describe() -> str:
  """'commit 1a2b3c4, 2026-11-22, 2 cores of an AMD EPYC, jax 0.10.2, ...'."""
  return (
    f'commit {commit()}, {datetime.date.today().isoformat()},'
    f' {cores()}, jax {jax.__version__}, Python {platform.python_version()}'
  )


def commit() -> str:
  """The commit of this code, '-dirty' with changes in its Python files."""
  folder = pathlib.Path(__file__).parent
  git = lambda *words: subprocess.run(
    ['git', '-C', str(folder), *words],
    capture_output=True,
    text=True,
    check=False,
  )
  name = git('rev-parse', '--short', 'HEAD').stdout.strip() or 'unknown'
  changed = git('diff', '--quiet', 'HEAD', '--', '../*.py').returncode
  return name + ('-dirty' if changed else '')


def cores() -> str:
  """'2 cores of an AMD EPYC', as the system calls them."""
  text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  lines = [line.partition(':') for line in text.splitlines()]
  models = [value.strip() for key, _, value in lines if 'model name' in key]
  return f'{len(models)} cores of an {models[0]}' if models else 'some cores'
