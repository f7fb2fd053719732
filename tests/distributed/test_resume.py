"""Does the README's program resume on another number of workers?

And with the functions of docs/how_to/checkpoints.md in the place of Orbax?
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import greedylore_jax

ROOT = pathlib.Path(greedylore_jax.__file__).parent.parent


def block_with(text, page):
  """The first Python block of a page that contains this."""
  found = re.findall(
    r'```python\n(.*?)```', (ROOT / page).read_text('utf-8'), re.DOTALL
  )
  return next(block for block in found if text in block)


ORBAX = block_with('gl.collapse', 'README.md')
BY_NAME = block_with('np.savez', 'docs/how_to/checkpoints.md')
# The same program without Orbax.
NUMPY = BY_NAME + ORBAX.replace(', orbax.checkpoint as ocp', '').replace(
  'with ocp.StandardCheckpointer() as files:', 'if True:'
).replace('files.restore', 'restore').replace('files.save', 'save').replace(
  '.resolve()', ".with_suffix('.npz')"
)
SAFETENSORS = (
  NUMPY.replace(
    'import numpy as np', 'import safetensors.numpy as st\nimport numpy as np'
  )
  .replace('np.savez(file, **arrays)', 'st.save_file(arrays, file)')
  .replace('np.load(file)', 'st.load_file(file)')
)


def nonlinear(program):
  """As docs/how_to/checkpoints.md says, with integer factors."""
  return (
    program.replace(
      "rank=4, axis_name='data'",
      "rank=4, axis_name='data', factor_dtype='int8'",
    )
    .replace(
      "mesh, axis_name='data')\n    params",
      "mesh, axis_name='data', num_workers=4)\n    params",
    )
    .replace(
      'place_state(saved, mesh,',
      'place_state(saved, mesh, exact="--exact" in sys.argv,',
    )
  )


PROGRAMS = {
  'orbax': ORBAX,
  'safetensors': SAFETENSORS,
  'orbax nonlinear': nonlinear(ORBAX),
  'npz nonlinear': nonlinear(NUMPY),
}
# Runs all of them in one process, which is started once per number of workers.
RUN_ALL = """
import json, sys
folder, programs = sys.argv[1], json.load(sys.stdin)
for name, program in programs.items():
  sys.argv[1] = f'{folder}/{name}'
  print('#', name)
  exec(program, {})
"""


@pytest.fixture(scope='module')
def losses(tmp_path_factory):
  """Of 4 workers that start and save, and of 4, 2 and 8 that resume."""
  folder = tmp_path_factory.mktemp('saved')
  runs = {'start': 4, '4': 4, '2': 2, '8': 8}
  return {name: start(folder, n, name == '4') for name, n in runs.items()}


def start(folder, devices, exact):
  """The losses that the programs print, by name."""
  done = subprocess.run(
    [sys.executable, '-c', RUN_ALL, folder, *(['--exact'] if exact else [])],
    input=json.dumps(PROGRAMS),
    env=os.environ
    | {
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'
      ' --xla_backend_optimization_level=0'
    },
    capture_output=True,
    text=True,
    check=False,
    timeout=280,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  parts = [part.split('\n', 1) for part in done.stdout.split('# ')[1:]]
  return {name: list(map(float, text.split())) for name, text in parts}


def test_the_program_is_short():
  assert len(ORBAX.splitlines()) <= 30


@pytest.mark.slow
@pytest.mark.parametrize('name', PROGRAMS)
def test_training_continues_on_any_number_of_workers(name, losses):
  first, *resumed = (losses[n][name] for n in ('start', '4', '2', '8'))
  # The first loss depends on the parameters alone, the rest on the errors, too.
  # A nonlinear method rounds otherwise once its errors are averaged.
  tolerance = 2e-3 if 'nonlinear' in name else 2e-6
  for run in resumed:
    assert first[-1] > run[0] > run[-1]
    assert run == pytest.approx(resumed[0], abs=tolerance)
