"""Is a work folder used by one run at a time, and is everything waited for?"""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

import runs
from train import __main__ as program
from train import compare
from train.config import exit_codes
from train.config.schema import Compression, Distributed
from train.distributed import watchdog
from train.run import lock, loop, metrics

HOLD = """
import pathlib, sys, time
from train.run import lock
with lock.held(pathlib.Path(sys.argv[1])):
  print('locked', flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that keeps the folder `work` locked."""
  words = [sys.executable, '-c', HOLD, str(tmp_path / 'work')]
  with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'locked\n'
    yield process
    process.kill()


def test_a_folder_is_locked_until_its_process_ends(tmp_path, holder, capsys):
  words = [runs.write(tmp_path), '--workdir', str(tmp_path / 'work')]
  assert program.main(words) == 2
  said = capsys.readouterr().err
  assert said.startswith(f'error: {tmp_path / "work"} must be used by one run')
  assert f'process {holder.pid} on ' in said
  holder.kill()
  holder.wait()
  assert (tmp_path / 'work' / 'lock').exists(), 'a kill leaves the file'
  with lock.held(tmp_path / 'work') as mark:
    assert f'process {os.getpid()} on ' in mark
  assert not (tmp_path / 'work').exists(), 'and an end leaves nothing'


def test_what_is_in_the_folder_stays(tmp_path):
  (tmp_path / 'mine').touch()
  with lock.held(tmp_path):
    pass
  assert [*tmp_path.iterdir()] == [tmp_path / 'mine']


@pytest.mark.parametrize('name', ['work', 'work/checkpoints'])
def test_a_file_where_a_folder_should_be_is_refused_before_the_first_step(
  tmp_path, capsys, name
):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.touch()
  words = [runs.write(tmp_path), '--workdir', str(tmp_path / 'work')]
  assert program.main(words) == 2
  out, said = capsys.readouterr()
  assert said.startswith(
    f'error: {path} must be a folder that this process can write to, but'
    ' writing failed (It is a file): '
  )
  assert 'step' not in out


@pytest.mark.slow
def test_a_save_that_fails_ends_the_process_at_once(tmp_path):
  """Threads of Orbax would wait for five minutes; nobody waits for them."""
  words = [
    runs.write(tmp_path, compression=Compression('dense')),
    '--workdir',
    str(tmp_path / 'work'),
    '--steps',
    '100000',
    '--checkpoint.every',
    '100',
    '--log.every',
    '20',
  ]
  with subprocess.Popen(
    [sys.executable, '-m', 'train', *words],
    env=runs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    for line in process.stdout:
      if line.startswith('step') and ' loss ' in line:
        break
    checkpoints = tmp_path / 'work' / 'checkpoints'
    checkpoints.rename(tmp_path / 'gone')
    checkpoints.touch()
    _, said = process.communicate(timeout=100)
  assert process.returncode == 2
  assert said.startswith(
    f'error: {checkpoints}: a checkpoint could not be written ('
  )
  assert said.count('\n') == 1


@pytest.mark.parametrize('tensorboard', [False, True])
def test_a_file_that_cannot_grow_is_an_error_and_no_hang(tmp_path, tensorboard):
  """As on a full disk."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with metrics.Metrics(tmp_path, 0, tensorboard=tensorboard) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
      long = {f'a{i}': i for i in range(5000)}
      with pytest.raises(OSError, match=r'could not be written \(File too'):
        journal.write(1, **long)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)


STALL = """
import threading, time
from train.distributed import watchdog
with watchdog.Watchdog(2, lambda: 7) as watch:
  for i in range(4):
    time.sleep(0.8)
    watch.saw(f'step {i}')
  threading.Lock().acquire(); threading.Event().wait()
"""


def test_the_watchdog_ends_a_process_that_waits(tmp_path):
  """Not one that makes progress, nor one that was suspended."""
  process = subprocess.Popen(
    [sys.executable, '-c', STALL], stderr=subprocess.PIPE, text=True
  )
  time.sleep(1)
  process.send_signal(signal.SIGSTOP)
  time.sleep(3)
  process.send_signal(signal.SIGCONT)
  _, said = process.communicate(timeout=30)
  assert process.returncode == exit_codes.STALLED
  assert said == (
    'error: a run must make progress every 2 s (distributed.stall_timeout),'
    ' but process 7 has waited since step 3 in code of other libraries: rerun'
    ' the same command to resume from the last checkpoint, with a higher'
    ' limit if nothing was stuck.\n'
  )


def test_a_run_reports_its_progress_to_the_watchdog(tmp_path):
  """A kind of work that does not would end the run after the limit."""
  limits, seen = [], []

  class Recorder(watchdog.Watchdog):
    def __init__(self, limit, process):
      limits.append(limit)
      super().__init__(limit, process)

    def saw(self, progress):
      seen.append(progress)

  settings = runs.settings(
    tmp_path,
    distributed=Distributed(stall_timeout=1234),
    steps=4,
    compression=Compression('dense'),
  )
  loop.run(settings, tmp_path / 'work', make_watchdog=Recorder)
  assert limits == [1234]
  batches = settings.evaluation.sequences // settings.batch_size
  assert seen == [
    'reading the data',
    'compiling the step',
    'step 1',
    'step 2',
    'step 3',
    'step 4',
    *['a batch of the evaluation after step 4'] * batches,
    'the checkpoint after step 4',
  ]


@pytest.mark.slow
def test_a_run_whose_study_was_killed_keeps_its_folder(tmp_path):
  """Started again, the study does not train next to it."""
  words = [
    sys.executable,
    '-m',
    'train.compare',
    runs.write(tmp_path),
    '--compressors',
    'dense',
    '--steps',
    '100000',
    '--log.every',
    '50',
    '--workdir',
    str(tmp_path / 'study'),
  ]
  start = lambda: subprocess.Popen(
    words,
    env=runs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  with start() as study:
    for line in study.stdout:
      if line.startswith('step'):
        break
    with start() as second:
      said = second.communicate(timeout=100)[0]
    assert second.returncode == 2
    assert f'process {study.pid} on ' in said, 'the study holds the folder'
    study.kill()
    (lock,) = (tmp_path / 'study').glob('dense-*/lock')
    run = int(lock.read_text().split()[1])
    try:
      with start() as third:
        said = third.communicate(timeout=100)[0]
      assert third.returncode == 2
      assert f'process {run} on ' in said, 'the run holds its own'
    finally:
      os.kill(run, signal.SIGKILL)


def test_a_run_and_a_study_do_not_overwrite_each_other(tmp_path, capsys):
  config = runs.write(tmp_path)
  (tmp_path / 'study').mkdir()
  (tmp_path / 'study' / 'results.jsonl').touch()
  assert program.main([config, '--workdir', str(tmp_path / 'study')]) == 2
  said = capsys.readouterr().err
  assert said.startswith(f'error: {tmp_path / "study"} belongs to a study')
  assert said.count('\n') == 1
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').touch()
  words = [config, '--compressors=dense', '--workdir', str(tmp_path / 'run')]
  assert compare.main(words) == 2
  said = capsys.readouterr().err
  assert said.startswith(f'error: {tmp_path / "run"} belongs to a run')
  assert said.count('\n') == 1
