"""Is a checkpoint as small as it can be, and is damage to it noticed?"""

import pathlib
import shutil
import subprocess
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import runs
from train.config.schema import Config
from train.distributed import fingerprint
from train.run import checkpoint
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
  with checkpoint.Checkpoints(
    tmp_path, Config(), mesh, data={}, is_elastic=True
  ) as checkpoints:
    checkpoints.save(
      checkpoint.Snapshot(1, params, state, checkpoint.Progress())
    )
  expected = 4 * (4 * 256 * 1024 + 256 * 256)
  assert size_on_disk(tmp_path) == pytest.approx(expected, rel=0.1)
  assert size_on_disk(tmp_path) < 1.02 * expected


def test_fingerprints_are_crc_32_for_any_sharding():
  rng = np.random.default_rng(0)
  tree = {
    'a': rng.normal(size=(8, 3)).astype(np.float32),
    'b': jnp.arange(8, dtype=jnp.bfloat16),
    'c': np.array([True, False]),
    'd': np.int32(7),
    'e': np.zeros((0, 3), np.float32),
  }
  whole = fingerprint.of(tree)
  assert whole == {
    name: {'whole': zlib.crc32(np.asarray(x).tobytes())}
    for name, x in tree.items()
  }
  over = jax.sharding.NamedSharding(
    workers.mesh_of(8), jax.sharding.PartitionSpec(workers.AXIS)
  )
  divided = tree | {k: jax.device_put(tree[k], over) for k in 'ab'}
  assert fingerprint.of(divided) == whole
  # Shards that several processes saved are checked one by one.
  pieces = {'a': {'0:4,0:3': 0, '4:8,0:3': 0}}
  assert fingerprint.of({'a': divided['a']}, pieces)['a'] == {
    '0:4,0:3': zlib.crc32(tree['a'][:4].tobytes()),
    '4:8,0:3': zlib.crc32(tree['a'][4:].tobytes()),
  }


def test_fingerprints_see_changes_of_several_entries():
  """Also such as leave sums of the bits what they were."""
  original = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  mark = fingerprint.of({'a': original})
  bits = original.view(np.uint32)
  changes = [(i, j) for i in range(bits.size) for j in range(bits.size)]
  for i, j in changes:
    changed = bits.copy().ravel()
    changed[i] ^= 1 << 31
    changed[j] ^= 1 << 30 if i == j else 1 << 31
    assert fingerprint.of({'a': changed.reshape(8, 3)}) != mark
  swapped = original.copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  assert fingerprint.of({'a': swapped}) != mark


class Small:
  """A checkpoint of a few kB after step 5, in a folder of its own."""

  def __init__(self, folder):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), (REPLICA,))
    tx = optax.chain(gl.greedylore(2, REPLICA, probes=1), optax.sgd(0.1))
    self.open = lambda: checkpoint.Checkpoints(
      folder, Config(), mesh, data={}, is_elastic=True
    )

    def snapshot(step, progress):
      params = {'w': jnp.arange(64.0).reshape(8, 8)}
      state = gl.init_state(tx, params, mesh, axis_name=REPLICA)
      return checkpoint.Snapshot(step, params, state, progress)

    self.folder = folder
    self.fresh = lambda: snapshot(0, checkpoint.Progress())
    progress = checkpoint.Progress({'next_index': 5}, bytes_sent=123_456)
    with self.open() as checkpoints:
      self.before = snapshot(5, progress)
      self.saved = checkpoints.save(self.before)

  def latest(self):
    with self.open() as checkpoints:
      return checkpoints.latest(self.fresh())


def test_a_state_that_was_replaced_takes_no_memory(tmp_path):
  small = Small(tmp_path)
  is_free = lambda tree: {x.is_deleted() for x in jax.tree.leaves(tree)}
  assert is_free(small.before.opt_state) == {True}
  assert is_free((small.saved.params, small.saved.opt_state)) == {False}
  fresh = small.fresh()
  with small.open() as checkpoints:
    found = checkpoints.latest(fresh)
  assert is_free((fresh.params, fresh.opt_state)) == {True}
  assert is_free((found.params, found.opt_state)) == {False}


@pytest.mark.parametrize('part', ['progress', 'identity', 'checksums'])
def test_any_changed_bit_of_the_notes_is_refused(tmp_path, part):
  small = Small(tmp_path)
  path = tmp_path / '5' / part / 'metadata'
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  for place in rng.choice(len(whole), 12, replace=False):
    changed = bytearray(whole)
    changed[place] ^= 1 << rng.integers(7)
    path.write_bytes(changed)
    pattern = r'/5 is damaged \(\w+: .*\)\. Delete it to resume from'
    with pytest.raises(ValueError, match=pattern) as error:
      small.latest()
    assert '\n' not in str(error.value)
  path.write_bytes(whole)
  found = small.latest()
  assert (found.step, found.progress.bytes_sent) == (5, 123_456)


@pytest.mark.parametrize('name', ['6', '3'])
def test_a_checkpoint_under_another_name_is_refused(tmp_path, name):
  small = Small(tmp_path)
  (tmp_path / '5').rename(tmp_path / name)
  message = rf'/{name} must hold the state after step {name}, got .* step 5\.'
  with pytest.raises(ValueError, match=message):
    small.latest()
  # And what the message proposes works.
  (tmp_path / name).rename(tmp_path / '5')
  assert small.latest().step == 5


def test_a_checkpoint_without_checksums_is_refused(tmp_path):
  """Such as an older version wrote."""
  small = Small(tmp_path)
  shutil.rmtree(tmp_path / '5' / 'checksums')
  with pytest.raises(ValueError, match=r'/5 is damaged \(checksums: '):
    small.latest()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  _, params = runs.run(runs.settings(folder), folder / 'work')
  return folder, params


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
  message = r'checkpoints/8 is damaged \(\w+: .*Delete it'
  with pytest.raises(ValueError, match=message):
    runs.run(runs.settings(folder), workdir)
  # And what the message proposes works.
  shutil.rmtree(workdir / 'checkpoints' / '8')
  assert runs.run(runs.settings(folder), workdir)[0]['steps'] == 8


def test_numbers_that_changed_on_disk_are_refused(finished, monkeypatch):
  """As if the disk gave other bits; its own checksums do not see all."""
  folder, _ = finished
  original = checkpoint.ocp.CheckpointManager.restore

  def flipped(*args, **kwargs):
    found = original(*args, **kwargs)
    if 'state' in {*found}:
      norm = found.state['params']['norm']
      found.state['params']['norm'] = norm.at[0].add(1e-7)
    return found

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'restore', flipped)
  with pytest.raises(ValueError, match=r'not as it was written: params\.norm'):
    runs.run(runs.settings(folder), folder / 'work')


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
    runs.run(runs.settings(folder), disk / 'work')
  enlarge()
  _, resumed = runs.run(runs.settings(folder), disk / 'work')
  runs.assert_equal(resumed, params)
