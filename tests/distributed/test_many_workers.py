"""Do the messages of few bits and few entries hold on many workers?"""

import os
import subprocess
import sys

import pytest

import many_workers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_32_workers_send_what_is_planned_and_lose_nothing():
  done = subprocess.run(
    [sys.executable, many_workers.__file__],
    env=os.environ
    | {
      'PYTHONPATH': os.pathsep.join(sys.path),
      'XLA_FLAGS': '--xla_force_host_platform_device_count=32'
      ' --xla_backend_optimization_level=0',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout.splitlines() == [*many_workers.METHODS], done.stderr[
    -2000:
  ]
