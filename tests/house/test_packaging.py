"""Do the packages contain what they should, and do their types hold?"""

import os
import pathlib
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
from collections.abc import Mapping

import greedylore_jax as gl
import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

mesh = jax.make_mesh((1,), ('data',))
params = {'w': jnp.zeros((256, 512)), 'b': jnp.zeros(512)}


def loss_fn(params: Mapping[str, jax.Array], batch: jax.Array) -> jax.Array:
  return jnp.mean((batch @ params['w'] + params['b']) ** 2)


rules = [('b', gl.Dense()), ('', gl.PowerSGD(8))]
tx = optax.chain(gl.compress_gradients(rules, 'data'), optax.adamw(1e-3))
tx = optax.chain(gl.greedylore(rank=8, axis_name='data'), optax.adamw(1e-3))
opt_state = gl.init_state(tx, params, mesh, axis_name='data')
step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')
plan: gl.Plan = gl.plan(gl.GreedyLore(8), params, num_workers=4)
sent: float = plan.bytes_per_step
gl.PowerSGD('8')  # type: ignore[arg-type]  # Unused, if there were no types.
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


def test_a_strict_program_passes_against_the_installed_wheel(
  packages, tmp_path
):
  """In an environment of its own, which sees our dependencies behind it."""
  venv.create(tmp_path / 'env', with_pip=False)
  python = tmp_path / 'env' / 'bin' / 'python'
  path = sysconfig.get_path('purelib', vars={'base': str(tmp_path / 'env')})
  zipfile.ZipFile(packages[1]).extractall(path)
  (pathlib.Path(path) / 'behind.pth').write_text(sysconfig.get_path('purelib'))
  (tmp_path / 'program.py').write_text(PROGRAM, encoding='utf-8')
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'mypy', '--strict'),
      *('--python-executable', python, 'program.py'),
    ],
    cwd=tmp_path,
    env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
    capture_output=True,
    text=True,
    check=False,
    timeout=280,
  )
  assert done.returncode == 0, done.stdout + done.stderr
