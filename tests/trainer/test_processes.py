"""Are several processes one run, and what do they say when they cannot be?"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import runs
import together
import train
from train import __main__ as program
from train.config import command_line, exit_codes
from train.config.schema import Compression, Config, Local, Mesh
from train.distributed import agreement
from train.run import loop

HEARTBEAT = 5


class Processes:
  """The processes of a run; killed at the end, if they have not ended."""

  def __init__(
    self,
    folder,
    count,
    options=(),
    each=lambda i: (),
    path=None,
    workdir='work',
  ):
    port = together.free_port()
    self.address = f'127.0.0.1:{port}'
    self.logs = [folder / f'log.{i}' for i in range(count)]
    self.all = []
    for i, log in enumerate(self.logs):
      words = [
        path or runs.write(folder, compression=POWERSGD),
        '--workdir',
        str(folder / workdir.format(i)),
        '--distributed.coordinator',
        self.address,
        '--distributed.num_processes',
        str(count),
        '--distributed.process_id',
        str(i),
        *options,
        *each(i),
      ]
      with log.open('w') as out:
        self.all.append(
          subprocess.Popen(
            [sys.executable, '-m', 'train', *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=runs.environment(),
          )
        )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.all:
      process.kill()
      process.wait()

  def codes(self, timeout=120):
    return [process.wait(timeout) for process in self.all]

  def said(self, i):
    return self.logs[i].read_text()

  def await_step(self, step):
    """Returns when the run has been evaluated after that step."""
    pattern = re.compile(rf'^step +{step} ', re.MULTILINE)
    for _ in range(1200):
      if pattern.search(self.said(0)):
        return
      if any(process.poll() is not None for process in self.all):
        break
      time.sleep(0.1)
    pytest.fail(self.said(0) + self.said(1))


# Errors are saved and restored, and it compiles fast.
POWERSGD = Compression('powersgd', rank=2, start_step=1)
LONG = (
  *('--steps=100000', '--checkpoint.every=20', '--evaluation.every=5'),
  f'--distributed.heartbeat_timeout={HEARTBEAT}',
)


def listening(port):
  """Addresses (hexadecimal) at which somebody listens on a port."""
  rows = []
  for name in ('tcp', 'tcp6'):
    with open(f'/proc/net/{name}') as table:
      rows += [line.split()[1:4] for line in table]
  return {
    where.split(':')[0]
    for where, _, state in rows[1:]
    if state == '0A' and int(where.split(':')[1], 16) == port
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  ('gone', 'sign'), [(1, 'KILL'), (1, 'STOP'), (0, 'KILL')]
)
def test_the_others_stop_and_say_who_is_missing(tmp_path, gone, sign):
  """In 5 s of missing heartbeats and some seconds for all else."""
  with Processes(tmp_path, 2, LONG) as run:
    run.await_step(25)
    port = int(run.address.split(':')[1])
    assert all(where.endswith('0100007F') for where in listening(port))
    os.kill(run.all[gone].pid, getattr(signal, f'SIG{sign}'))
    begin = time.monotonic()
    other = run.all[1 - gone].wait(120)
    seconds = time.monotonic() - begin
  assert other not in (0, 2, exit_codes.DIVERGED, exit_codes.PREEMPTED)
  assert seconds < 4 * HEARTBEAT
  who = 'process 1 of this run' if gone else f'the coordinator at {run.address}'
  for _ in range(50):  # The filter writes its line when the process has gone.
    if who in run.said(1 - gone):
      break
    time.sleep(0.1)
  last = run.said(1 - gone).splitlines()[-1]
  assert last.startswith('error: process')
  assert who in last
  assert 'to resume from the last checkpoint' in last
  assert 'stack trace' not in run.said(1 - gone)


@pytest.mark.slow
@pytest.mark.parametrize('every', [1, 3])
def test_sigterm_saves_at_once_and_any_number_resumes(tmp_path, capsys, every):
  """SIGTERM for one process stops both, with the exit code for "resume"."""
  options = (*LONG, '--local.every', str(every))
  with Processes(tmp_path, 2, options) as run:
    run.await_step(25)
    run.all[1].terminate()
    assert run.codes() == [exit_codes.PREEMPTED] * 2
    stopped = int(re.search(r'Stopped after step (\d+)', run.said(0))[1])
    assert f'Stopped after step {stopped}, as asked' in run.said(1)
  assert stopped % every == 0, 'at the end of a round'
  fewer = runs.settings(
    tmp_path,
    steps=100000,
    mesh=Mesh(replica=2),
    compression=POWERSGD,
    local=Local(every=every),
  )
  runs.interrupt(fewer, tmp_path / 'work', stopped + 3)
  out = capsys.readouterr().out
  assert f'Continuing after step {stopped}.' in out
  assert ('each of 2 begins with the mean' in out) == (every > 1)


@pytest.mark.slow
def test_two_processes_learn_images_as_one_with_two_devices(tmp_path):
  """configs/studies/digits.py for seconds, with its shifted images."""
  pytest.importorskip('sklearn')
  root = pathlib.Path(train.__file__).parent.parent
  path = str(root / 'configs' / 'studies' / 'digits.py')
  words = (
    '--steps',
    '4',
    '--batch_size',
    '8',
    '--mesh.replica',
    '2',
    '--model.width',
    '2',
    '--data.eval_fraction',
    '0.02',
    '--compression.method',
    'powersgd',
    '--compression.rank',
    '1',
    '--compression.start_step',
    '1',
    '--evaluation.every',
    '0',
    '--checkpoint.every',
    '0',
    '--log.every',
    '1',
    '--log.diagnostics',
    'False',
    '--optimizer.clip_norm',
    '0',
  )
  with Processes(tmp_path, 2, words, path=path) as run:
    assert run.codes() == [0, 0], run.said(0) + run.said(1)
  settings, _ = command_line.parse([path, *words], 'train')
  loop.run(settings, tmp_path / 'one')
  two, one = (
    [
      (x['step'], name, x[name])
      for x in runs.lines_of(tmp_path / folder)
      for name in ('loss', 'eval_loss', 'eval_accuracy', 'bytes_sent')
      if name in x
    ]
    for folder in ('work', 'one')
  )
  assert len(two) == 4 * 2 + 3
  assert [x[:2] for x in two] == [x[:2] for x in one]
  for (_, _, a), (_, _, b) in zip(two, one, strict=True):
    assert a == pytest.approx(b, rel=1e-5)


def test_a_difference_between_processes_is_named(tmp_path):
  """Also if it decides how many devices each of them starts with."""
  each = lambda i: (
    '--evaluation.every',
    str(3 + i),
    '--mesh.replica',
    str(4 + 2 * i),
  )
  with Processes(tmp_path, 2, (), each) as run:
    assert run.codes() == [2, 2]
  for i in range(2):
    last = run.said(i).splitlines()[-1]
    assert last.startswith('error: the processes of this run differ:')
    assert 'evaluation.every is 4 on process 1 and 3 on process 0' in last
    assert 'mesh.replica is 6 on process 1 and 4 on process 0' in last


def test_every_setting_is_compared_unless_it_names_a_place():
  """So that a new setting cannot make processes run different collectives."""
  tree = agreement.common(Config())
  assert {key for key in [*command_line.keys()] if not holds(tree, key)} == {
    'workdir',
    'distributed.coordinator',
    'distributed.process_id',
    'distributed.bind',
    'distributed.mtls_cert_file',
    'distributed.mtls_key_file',
    'distributed.mtls_ca_file',
    'data.data_dir',
    'data.files',
    'data.tokenizer',
    'data.held_out',
    'model.pretrained',
  }


def holds(tree, key):
  """Whether nested dicts have an entry of that name: 'data.files'."""
  for name in key.split('.'):
    if name not in tree:
      return False
    tree = tree[name]
  return True


@pytest.mark.slow
def test_a_work_folder_that_is_not_shared_is_refused_before_the_first_step(
  tmp_path,
):
  with Processes(tmp_path, 2, workdir='own{}') as run:
    assert run.codes() == [2, 2]
  for i in range(2):
    last = run.said(i).splitlines()[-1]
    assert last.startswith('error: ')
    assert '--workdir must be one folder that all processes share' in last
    assert f'{tmp_path}/own1 on' in last
  assert 'step ' not in run.said(0)
  assert not [*tmp_path.glob('own*')], 'an empty folder is removed'


def test_every_process_reports_why_one_cannot_start(tmp_path):
  each = lambda i: ('--data.files', str(tmp_path / 'abd'[i]) + '.txt')
  with Processes(tmp_path, 2, (), each) as run:
    (tmp_path / 'b.txt').unlink()
    assert run.codes() == [2, 2]
  for i, who in enumerate(('process 1 of this run stopped: ', '')):
    last = run.said(i).splitlines()[-1]
    assert last.startswith(f'error: {who}data.files must name ')


def test_a_port_in_use_is_reported(tmp_path, capsys):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    assert alone(tmp_path, address, process_id=0) == 2
  error = capsys.readouterr().err
  assert error.startswith(f'error: process 0 cannot listen at {address}')
  assert 'Address already in use' in error


def test_a_coordinator_that_never_comes_is_reported(tmp_path, capsys):
  address = together.free_address()
  assert alone(tmp_path, address, process_id=1) == 2
  expected = f'error: no coordinator answered at {address} within 1 s'
  assert capsys.readouterr().err.startswith(expected)


def test_an_address_without_port_is_reported(tmp_path, capsys):
  assert alone(tmp_path, '127.0.0.1', process_id=1) == 2
  assert "must be HOST:PORT, got '127.0.0.1'" in capsys.readouterr().err


def alone(folder, address, process_id):
  """One of two processes, the other never comes."""
  return program.main(
    [
      runs.write(folder),
      '--workdir',
      str(folder / 'work'),
      '--distributed.coordinator',
      address,
      '--distributed.num_processes',
      '2',
      '--distributed.process_id',
      str(process_id),
      '--distributed.start_timeout',
      '1',
    ]
  )


@pytest.mark.slow
def test_shards_that_no_process_holds_alone_have_checksums(tmp_path):
  """Every worker's own error is saved by its process and checked by it."""
  options = (
    '--compression.method',
    'sign',
    '--mesh.replica',
    '2',
    '--steps',
    '2',
    '--log.every',
    '1',
  )
  for expected in (0, 0, 2):
    with Processes(tmp_path, 2, options) as run:
      assert run.codes() == [expected] * 2, run.said(0)
    path = tmp_path / 'work' / 'checkpoints' / '2' / 'checksums' / 'metadata'
    checksums = json.loads(path.read_text())
    errors = {
      name: marks
      for name, marks in checksums['state'].items()
      if 'error' in name and [*marks] != ['whole']
    }
    if not expected and 'Continuing' in run.said(0):
      name, marks = errors.popitem()
      piece, mark = marks.popitem()
      assert piece.startswith('1:2,')
      checksums['state'][name][piece] = mark ^ 1
      path.write_text(json.dumps(checksums))
  for i in (0, 1):
    assert f'2 is damaged (state: not as it was written: {name}' in run.said(i)
