"""The machine and the code with which something was measured."""

import datetime
from importlib import metadata
import pathlib
import platform

from train.study import commit

# For processes that share a few cores. XLA's CPU client allocates its buffers
# anew in every step: without large pages, and if freed memory is returned to
# the system, much of a step is page faults. OpenBLAS's threads spin while they
# wait for each other: a refresh took 8 to 68 s instead of 1 s.
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'OPENBLAS_NUM_THREADS': '1',
  'GLIBC_TUNABLES': (
    'glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1'
    f':glibc.malloc.mmap_threshold={1 << 34}'
    f':glibc.malloc.trim_threshold={1 << 34}'
  ),
}


def describe() -> str:
  """'commit 1a2b3c4, 2026-11-22, 2 cores of an AMD EPYC, jax 0.10.2, ...'."""
  return (
    f'commit {commit.current()}, {datetime.date.today().isoformat()},'
    f' {cores()}, jax {metadata.version("jax")},'
    f' Python {platform.python_version()}'
  )


def cores() -> str:
  """'2 cores of an AMD EPYC', in the system's words."""
  text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  lines = [line.partition(':') for line in text.splitlines()]
  models = [value.strip() for key, _, value in lines if 'model name' in key]
  return f'{len(models)} cores of an {models[0]}' if models else 'some cores'
