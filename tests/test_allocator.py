"""Does freed memory stay with the process, unless glibc was told otherwise?"""

import os
import platform
import subprocess
import sys

import pytest

# A buffer of 64 MB, written to and freed, as XLA does in every step.
_PROGRAM = """
import resource
import numpy as np
from train import allocator
told = allocator.keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
before = faults()
for _ in range(5):
  np.ones(2**23)
print(told, faults() - before > 5 * 16)  # 32 pages, if they are large.
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc', reason='another C library'
)
@pytest.mark.parametrize(
    ('tunables', 'expected'),
    [
        ('', 'True False'),
        # To the system and back, every time.
        ('glibc.malloc.trim_threshold=131072', 'False True'),
    ],
)
def test_a_buffer_comes_from_the_system_once(tunables, expected):
  told = subprocess.run(
      [sys.executable, '-c', _PROGRAM],
      env=os.environ | {'GLIBC_TUNABLES': tunables},
      capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert told.stdout.split() == expected.split(), told.stdout + told.stderr
