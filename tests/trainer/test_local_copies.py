"""What is left of a run when a host is lost, and none shares its disk?"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import runs
import together
import train
from train.config.schema import Checkpoint, Compression, Evaluation, Local, Log
from train.run import local_copies, own_files
import workers

HELPERS = pathlib.Path(workers.__file__).parent
ROOT = pathlib.Path(train.__file__).parent.parent


@pytest.mark.parametrize(
  ('copies', 'step', 'holds'),
  [
    # Nobody has any, or only one process has begun.
    ([{}, {}], 0, [False, False]),
    ([{10: 1}, {}], 10, [True, False]),
    # All have both; one was killed before its newest was complete.
    ([{10: 1, 20: 2}, {10: 1, 20: 2}], 20, [True, True]),
    ([{10: 1, 20: 2}, {0: 7, 10: 1}], 10, [True, True]),
    ([{0: 7, 10: 1}, {10: 1, 20: 2}], 10, [True, True]),
    # One was away: the others went on, far or for a single checkpoint.
    ([{10: 1, 20: 2}, {40: 4, 50: 5}], 50, [False, True]),
    ([{10: 1, 20: 2}, {20: 2, 30: 3}], 20, [True, True]),
    # Most were away.
    ([{10: 1}, {10: 1}, {40: 4, 50: 5}], 50, [False, False, True]),
    # One has copies of a course that the others gave up.
    ([{40: 4, 50: 5}, {40: 4, 50: 6}, {40: 4}], 40, [True, True, True]),
    ([{40: 9, 50: 9}, {60: 6, 50: 5}, {60: 6}], 60, [False, True, True]),
    # A new one has the newest only.
    ([{10: 1, 20: 2}, {20: 2}], 20, [True, True]),
  ],
)
def test_which_copies_are_taken(copies, step, holds):
  assert local_copies.choose(copies) == (step, holds)


ARRAYS = {
  'w': np.arange(12.0).reshape(3, 4),
  'half': np.array([1.5, -0.0], ml_dtypes.bfloat16),
  'count': np.int32(7)[None].reshape(()),
  'none': np.zeros((0, 3), np.float32),
}


def opened(folder, steps=(), keep=2):
  """Files with snapshots after these steps."""
  files = own_files.OwnFiles(folder, keep)
  for step in steps:
    files.write(step, ARRAYS, {'progress': {'step': step, 'loss': None}})
  files.wait()
  return files


def test_snapshots_come_back_as_they_were(tmp_path):
  files = opened(tmp_path, [1, 2, 30])
  assert files.steps() == [2, 30]
  assert files.notes(30)['progress'] == {'step': 30, 'loss': None}
  found = files.arrays(30, {k: np.ones_like(x) for k, x in ARRAYS.items()})
  assert [*found] == [*ARRAYS]
  for name, x in ARRAYS.items():
    assert_bits(found[name], x)
  files.delete(30)
  assert opened(tmp_path).steps() == [2]


def test_a_write_that_was_cut_off_is_no_snapshot(tmp_path):
  opened(tmp_path, [1])
  (tmp_path / '2.partial').mkdir()
  (tmp_path / '2.partial' / 'arrays').write_bytes(b'...')
  assert opened(tmp_path, [2]).steps() == [1, 2]
  assert sorted(x.name for x in tmp_path.iterdir()) == ['1', '2']


def flipped(path, place):
  data = bytearray(path.read_bytes())
  data[place] ^= 4
  path.write_bytes(bytes(data))


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: flipped(folder / 'arrays', 50),
    lambda folder: flipped(folder / 'notes.json', 20),
    lambda folder: (folder / 'notes.json').write_text('[' * 100_000),
    lambda folder: (folder / 'notes.json').write_text('3'),
    lambda folder: (folder / 'arrays').write_bytes(b''),
    lambda folder: (folder / 'arrays').write_bytes(bytes(10**6)),
    lambda folder: (folder / 'arrays').unlink(),
  ],
)
def test_a_damaged_snapshot_is_refused(tmp_path, damage):
  files = opened(tmp_path, [5])
  damage(tmp_path / '5')
  with pytest.raises(ValueError, match=r'5 is damaged \(.*Delete it to resume'):
    files.arrays(5, ARRAYS)


def test_a_snapshot_of_other_arrays_is_refused(tmp_path):
  like = ARRAYS | {'w': np.zeros((4, 4))}
  with pytest.raises(ValueError, match='not as it was written: w'):
    opened(tmp_path, [5]).arrays(5, like)


def test_a_full_disk_is_reported_by_the_next_write(tmp_path):
  files = opened(tmp_path / 'a', [5])
  (tmp_path / 'a' / '6').write_text('in the way')
  files.write(6, ARRAYS, {})
  with pytest.raises(OSError, match='6'):
    files.wait()
  assert files.arrays(5, ARRAYS)['count'] == 7


def in_processes(folder, hosts, kind, steps=''):
  """Runs local_copies_process on these hosts, each with its own disk."""
  address, count = together.free_address(), len(hosts)
  program = [sys.executable, HELPERS / 'local_copies_process.py', address]
  path = os.pathsep.join((str(ROOT), str(HELPERS)))
  together.run(
    [
      [*program, count, i, folder / f'disk-{host}', kind, steps]
      for i, host in enumerate(hosts)
    ],
    timeout=250,
    environments=[runs.environment(PYTHONPATH=path)] * count,
  )
  results = []
  for name in ('found', 'saved'):
    first, *others = [
      arrays_of(folder / f'{name}-{i}.npz') for i in range(len(hosts))
    ]
    for other in others:  # All processes see one state.
      for key, x in first.items():
        assert_bits(x, other[key])
    results.append(first)
  return results


def arrays_of(path):
  with np.load(path) as file:
    return dict(file)


def assert_bits(a, b):
  assert (a.dtype, a.shape) == (b.dtype, b.shape)
  assert a.tobytes() == b.tobytes()


def is_per_worker(key):
  """Errors and all that local steps change."""
  return any(name in key for name in ('.error', '.delta', '.inner'))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('kind', ['linear', 'sign'])
def test_what_is_lost_with_a_host_and_what_is_not(tmp_path, kind):
  """Three hosts of two workers each: parameters stay equal bit by bit.

  The method does not matter: nothing is averaged over the workers to save.
  """
  _, saved = in_processes(tmp_path, 'abc', kind, '4,8')
  own = [key for key in saved if is_per_worker(key)]
  assert any('.error' in key for key in own)
  assert any('.mu' in key for key in own)
  assert {len(saved[key]) for key in own} == {6}
  shared = [k for k in saved if k not in own and k not in ('lost', 'count')]

  # No disk is lost: the same bits everywhere.
  found, _ = in_processes(tmp_path, 'abc', kind)
  for key in saved:
    assert_bits(found[key], saved[key])
  assert (found['count'], found['next'], list(found['lost'])) == (8, 8, [])

  # The second host is lost, and the others continue as four workers.
  shutil.rmtree(tmp_path / 'disk-b')
  found, _ = in_processes(tmp_path, 'ac', kind)
  for key in shared:
    assert_bits(found[key], saved[key])
  for key in own:
    assert_bits(found[key], np.delete(saved[key], [2, 3], axis=0))
  assert not list(found['lost'])

  # Another host takes its place, and the last to save was cut off.
  shutil.rmtree(tmp_path / 'disk-c' / '8')
  saved = in_processes(tmp_path, 'ac', kind, '8')[1]
  found, _ = in_processes(tmp_path, 'adc', kind)
  for key in shared:
    assert_bits(found[key], saved[key])
  for key in own:
    kept = found[key][[0, 1, 4, 5]]
    assert_bits(kept, saved[key])
    for row in found[key][2:4]:
      if row.dtype.kind == 'f':
        np.testing.assert_allclose(row, kept.mean(0), rtol=1e-12, atol=1e-12)
      else:
        assert_bits(row, kept[0])
  assert (found['count'], list(found['lost'])) == (8, [2, 3])

  # Which has a copy of its own now.
  again, _ = in_processes(tmp_path, 'adc', kind)
  for key in [*shared, *own]:
    assert_bits(again[key], found[key])
  assert not list(again['lost'])


class Host(together.Followed):
  """A launcher of two, with its own work folder and disk."""

  def __init__(self, folder, config, address, i):
    self.work, self.disk = folder / f'work-{i}', folder / f'disk-{i}'
    super().__init__(
      [
        *(sys.executable, '-m', 'train.launch', config, '--elastic'),
        *(f'--rendezvous={address}', '--hosts=2', f'--host={i}'),
        *('--num_processes=1', f'--workdir={self.work}'),
        f'--checkpoint.local={self.disk}',
      ],
      env=runs.environment(GREEDYLORE_TOKEN='a secret of 23 characters'),
      stderr=subprocess.STDOUT,
    )

  def end(self):
    """The exit code, once all output is read."""
    self.rest(timeout=400)
    return self.process.returncode


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_survives_the_loss_of_a_host_and_its_disk(tmp_path):
  """Whose workers then begin with the states of the others."""
  config = runs.write(
    tmp_path,
    steps=400,
    compression=Compression('powersgd', rank=2),
    local=Local(every=5),
    evaluation=Evaluation(every=100, sequences=16),
    checkpoint=Checkpoint(every=50),
    log=Log(every=5, tensorboard=False),
  )
  address = together.free_address()
  hosts = [Host(tmp_path, config, address, i) for i in range(2)]
  try:
    hosts[0].until('step 100 ')
    hosts[1].process.kill()
    hosts[1].process.communicate()
    shutil.rmtree(hosts[1].disk)
    hosts[1] = Host(tmp_path, config, address, 1)
    assert [host.end() for host in hosts] == [0, 0], hosts[0].out
  finally:
    for host in hosts:
      host.process.kill()
      host.process.communicate()
  resumed = re.search(r'Continuing after step (\d+)\.', hosts[0].out)
  assert int(resumed[1]) % 50 == 0
  assert 'The state of workers 2, 3 is lost: errors and inner' in hosts[0].out
  assert not hosts[1].work.exists()
  assert (hosts[0].work / 'summary.json').exists()
  assert not (hosts[0].work / 'checkpoints').exists()
  for host in hosts:
    assert {x.name for x in (host.disk / '0').iterdir()} == {'350', '400'}
