"""Is a checkpoint as small as it can be, and is damage to it noticed?"""

import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import runs
from train import checkpoint
from train import config
from train import fingerprint
from train import loop
import workers

REPLICA = 'replica'


def size_on_disk(folder):
  return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize('n', [1, 8])
def test_size_is_that_of_one_copy_whatever_the_number_of_workers(tmp_path, n):
  """Parameters, two moments, one mean error, one basis; 2 % for the rest."""
  rng = np.random.default_rng(0)
  shape = (256, 1024)
  params = {'w': jnp.asarray(rng.normal(size=shape), jnp.float32)}
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:n]), (REPLICA,))
  tx = optax.chain(gl.greedylore(8, REPLICA), optax.adam(1e-3))
  state = gl.init_state(tx, params, mesh, axis_name=REPLICA)
  noise = lambda x: (
      jnp.asarray(rng.normal(size=x.shape), x.dtype) if x.size > 1 else x
  )
  state = jax.tree.map(noise, state)  # Zeros would be packed.
  run = config.Config()
  with checkpoint.Checkpoints(
      tmp_path, run, {}, mesh, REPLICA, is_linear=True
  ) as checkpoints:
    now = checkpoint.Snapshot(1, params, state, {})
    checkpoints.save(now)
  expected = 4 * (4 * 256 * 1024 + 256 * 256)
  assert size_on_disk(tmp_path) == pytest.approx(expected, rel=0.1)
  assert size_on_disk(tmp_path) < 1.02 * expected


def test_fingerprints_see_every_bit_and_no_sharding():
  rng = np.random.default_rng(0)
  tree = {
      'a': rng.normal(size=(8, 3)).astype(np.float32),
      'b': jnp.arange(8, dtype=jnp.bfloat16),
      'c': np.array([True, False]),
      'd': np.int32(7),
  }
  whole = fingerprint.of(tree)
  assert [*whole] == ['a', 'b', 'c', 'd']
  over = jax.sharding.NamedSharding(
      workers.mesh_of(8), jax.sharding.PartitionSpec(workers.AXIS)
  )
  divided = tree | {k: jax.device_put(tree[k], over) for k in 'ab'}
  assert fingerprint.of(divided) == whole
  for i in range(tree['a'].size):
    changed = tree['a'].copy()
    changed.view(np.uint32).ravel()[i] ^= 1
    assert fingerprint.of({'a': changed})['a'] != whole['a']
  swapped = tree['a'].copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  assert fingerprint.of({'a': swapped})['a'] != whole['a']


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  with_parameters = runs.recording()
  loop.run(runs.settings(folder), folder / 'work')
  return folder, with_parameters()


def damaged(folder, tmp_path, name, how):
  """A copy of the run of which one file of the last checkpoint is damaged."""
  shutil.copytree(folder / 'work', tmp_path / 'work')
  path = tmp_path / 'work' / 'checkpoints' / '8' / name
  if path.is_dir():
    path = max(path.iterdir(), key=lambda p: p.stat().st_size)
  how(path)
  return tmp_path / 'work'


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Orbax leaves the reads of the other arrays behind.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('how', [truncate, pathlib.Path.unlink])
@pytest.mark.parametrize(
    'name', ['state/manifest.ocdbt', 'state/d', 'progress/metadata']
)
def test_a_damaged_checkpoint_is_refused(finished, tmp_path, name, how):
  folder, _ = finished
  workdir = damaged(folder, tmp_path, name, how)
  with pytest.raises(ValueError, match=r'checkpoints/8 is damaged .*Delete it'):
    loop.run(runs.settings(folder), workdir)
  # And what the message proposes works.
  shutil.rmtree(workdir / 'checkpoints' / '8')
  assert loop.run(runs.settings(folder), workdir)['steps'] == 8


def test_numbers_that_changed_on_disk_are_refused(finished, monkeypatch):
  """As if the disk gave other bits; its own checksums do not see all."""
  folder, _ = finished
  original = checkpoint.ocp.CheckpointManager.restore

  def flipped(*args, **kwargs):
    found = original(*args, **kwargs)
    if 'state' in set(found):
      norm = found.state['params']['norm']
      found.state['params']['norm'] = norm.at[0].add(1e-7)
    return found

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'restore', flipped)
  with pytest.raises(ValueError, match=r'not as it was written: params\.norm'):
    loop.run(runs.settings(folder), folder / 'work')


@pytest.fixture
def small_disk(tmp_path):
  """A disk of 300 kB, and a function that makes it larger."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('only root can mount a small disk')
  larger = ['mount', '-o', 'remount,size=50m', str(folder)]
  yield folder, lambda: subprocess.run(larger, check=True)
  subprocess.run(['umount', str(folder)], check=True)


# Writes that Orbax gave up end when nobody waits for them any more.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk_is_one_clear_line_and_loses_nothing(
    finished, small_disk, tmp_path
):
  folder, params = finished
  disk, enlarge = small_disk
  with pytest.raises(OSError, match=r'could not be written .*No space left'):
    loop.run(runs.settings(folder), disk / 'work')
  enlarge()
  last = runs.recording()
  loop.run(runs.settings(folder), disk / 'work')
  for a, b in zip(
      jax.tree.leaves(last()), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_array_equal(a, b)
