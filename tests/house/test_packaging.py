"""Do the packages contain what they should, and do their types hold?"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

import greedylore_jax

ROOT = pathlib.Path(greedylore_jax.__file__).parent.parent
# Not part of a source distribution.
IGNORED = (
  *('.git*', '.ci', '.venv*', '.*_cache'),
  *('runs', 'build', 'dist', 'site'),
)

PROGRAM = """
from collections.abc import Generator, Mapping
import dataclasses
from typing import Any

import greedylore_jax as gl
import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

auto = (jax.sharding.AxisType.Auto,)
mesh = jax.make_mesh((1,), ('data',), axis_types=auto)
params = {'w': jnp.zeros((256, 512)), 'b': jnp.zeros(512)}


def loss_fn(params: Mapping[str, jax.Array], batch: jax.Array) -> jax.Array:
  return jnp.mean((batch @ params['w'] + params['b'][None]) ** 2)


@dataclasses.dataclass(frozen=True)
class RowMeans(gl.Compressor):
  linear = True

  def compress(
    self, h: jax.Array, state: Any, key: jax.Array
  ) -> Generator[Any, Any, Any]:
    mean, sent = yield h.mean(axis=2, keepdims=True)
    output, share = (jnp.broadcast_to(x, h.shape) for x in (mean, sent))
    return output, share, state


rules = [('b', gl.Dense()), ('', gl.PowerSGD(8))]
sparse = gl.ChunkTopK(keep=64, bits=2)
outer = optax.chain(
  gl.compress_gradients(sparse, 'data', error_decay=0.95), optax.sgd(1.0)
)
every = gl.QSR(optax.constant_schedule(1e-3), alpha=0.0175, min_steps=4)
optimizers = [
  gl.compress_gradients(rules, 'data', factor_dtype='int8'),
  gl.compress_gradients(RowMeans(), 'data'),
  gl.local_updates(optax.adamw(1e-3), outer=outer, every=every),
  gl.lordo(1e-3, 8, 'data', every=10, outer=outer),
  gl.frugal(1e-3, 'data', compressor=gl.Quantize(8)),
  gl.sketched_amsgrad(optax.constant_schedule(1e-3), 0.02, 'data'),
  gl.tsr_adam(1e-3, rank=8, axis_name='data'),
  optax.chain(gl.greedylore(rank=8, axis_name='data'), optax.adamw(1e-3)),
]
for tx in optimizers:
  opt_state = gl.init_state(tx, params, mesh, axis_name='data')
step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')
_, _, loss = step(params, opt_state, jnp.ones((4, 256)))
assert float(loss) == 0
plan: gl.Plan = gl.plan(gl.CountSketch(density=0.01), params, num_workers=4)
sent: float = plan.bytes_per_step
print(gl.predict(plan, bandwidth=1.25e8, compute_seconds=0.1))


def mistakes() -> None:  # Ignored in vain, if there were no types.
  gl.PowerSGD('8')  # type: ignore[arg-type]
  gl.ChunkTopK(keep=0.1)  # type: ignore[arg-type]
  gl.frugal(1e-3, 'data', density='8')  # type: ignore[arg-type]
  gl.compress_gradients(sparse, 'data', decay=1)  # type: ignore[call-arg]
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def packages(tmp_path_factory):
  """A source distribution and the wheel, built without a network."""
  pytest.importorskip('setuptools', minversion='77')
  folder = tmp_path_factory.mktemp('packages')
  source = folder / 'source'
  ignore = shutil.ignore_patterns(*IGNORED, '__pycache__', '*.egg-info')
  shutil.copytree(ROOT, source, ignore=ignore)
  build = (
    'import setuptools.build_meta as backend;'
    'print(backend.build_sdist(".."), backend.build_wheel(".."))'
  )
  done = subprocess.run(
    [sys.executable, '-c', build],
    cwd=source,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return [folder / name for name in done.stdout.splitlines()[-1].split()]


def test_the_wheel_contains_the_library_only(packages):
  names = zipfile.ZipFile(packages[1]).namelist()
  assert {name.split('/')[0].split('-')[0] for name in names} == {
    'greedylore_jax'
  }
  assert 'greedylore_jax/py.typed' in names


def test_the_source_distribution_contains_what_its_tests_need(packages):
  with tarfile.open(packages[0]) as file:
    members = {x.name.partition('/')[2] for x in file if x.isfile()}
  listed = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  expected = {
    name
    for name in listed.stdout.splitlines()
    if not name.startswith('.') and (ROOT / name).exists()
  }
  assert expected or not (ROOT / '.git').exists()
  assert expected <= members, f'missing: {sorted(expected - members)[:5]}'
  assert {'Makefile', 'train/__main__.py', 'tests/conftest.py'} <= members


@pytest.fixture(scope='module')
def python(packages, tmp_path_factory):
  """Runs Python where the wheel is installed, with our dependencies behind."""
  folder = tmp_path_factory.mktemp('fresh')
  venv.create(folder / 'env', with_pip=False)
  path = sysconfig.get_path('purelib', vars={'base': str(folder / 'env')})
  zipfile.ZipFile(packages[1]).extractall(path)
  (pathlib.Path(path) / 'behind.pth').write_text(sysconfig.get_path('purelib'))
  (folder / 'program.py').write_text(PROGRAM, encoding='utf-8')
  executable = folder / 'env' / 'bin' / 'python'

  def run(*words):
    done = subprocess.run(
      [executable, *words],
      cwd=folder,
      env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
      capture_output=True,
      text=True,
      check=False,
      timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  where = run('-c', 'import greedylore_jax; print(greedylore_jax.__file__)')
  assert where.startswith(path), 'not the wheel'
  return run


def test_a_strict_program_passes_against_the_installed_wheel(python):
  python('-m', 'mypy', '--strict', 'program.py')


def test_programs_run_with_the_installed_wheel(python, tmp_path):
  python('program.py')
  text = (ROOT / 'README.md').read_text('utf-8')
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  (tmp_path / 'readme.py').write_text('\n'.join(blocks), encoding='utf-8')
  printed = python(tmp_path / 'readme.py', tmp_path / 'saved')
  assert re.findall(r'^\d+\.\d+$', printed, re.MULTILINE)
  assert (tmp_path / 'saved').exists()
