"""Does a run resume without help when it loses processes?"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from benchmarks.soak import kills
import runs
import supervisor
import together
from train.config import exit_codes
from train.config.schema import Checkpoint, Compression, Evaluation, Log


class Supervised:
  """A run whose processes follow a script, in a process without JAX.

  Attributes:
    code: the exit code.
    sizes: how many processes each attempt had.
    error: what was printed on standard error.
  """

  def __init__(self, folder, sizes, attempts, max_restarts=3, stop_at=0):
    """`attempts` has the actions of each attempt; see helpers/supervisor.py.

    With `stop_at`, it is asked to stop when so many processes wait.
    """
    words = [str(folder), json.dumps([sizes, attempts, max_restarts])]
    with subprocess.Popen(
      [sys.executable, supervisor.__file__, *words],
      env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    ) as process:
      begin = ''
      while begin.count('ready') < stop_at:
        begin += process.stdout.readline()
      if stop_at:
        process.terminate()
      out, self.error = process.communicate(timeout=150)
      out = begin + out
    self.code = process.returncode
    self.sizes = [int(x) for x in re.findall(r'^attempt (\d+)', out, re.M)]


def test_all_start_again_from_the_last_checkpoint(tmp_path):
  done = ['exit:0', 'exit:0']
  run = Supervised(tmp_path, [2], [['save:40', 'save:40 kill'], done])
  assert (run.code, run.sizes) == (0, [2, 2])
  assert run.error == (
    'Process 1 was ended by SIGKILL; resuming after step 40 with 2 of 2'
    ' processes.\n'
  )


@pytest.mark.parametrize(
  ('action', 'said'),
  [
    ('exit:1', 'Process 1 failed with exit code 1; starting again'),
    ('exit:4', 'Process 1 made no progress and ended with exit code 4; start'),
    ('exit:5', 'Process 1 failed with exit code 5; starting again'),
    ('exit:75', 'The processes were asked to stop; starting again'),
  ],
)
def test_what_is_restarted(tmp_path, action, said):
  first = ['exit:75' if action == 'exit:75' else 'ignore', action]
  run = Supervised(tmp_path, [2], [first, ['exit:0', 'exit:0']])
  assert (run.code, run.sizes) == (0, [2, 2])
  assert run.error.startswith(said)
  assert '(restart 1 of 3 without a newer checkpoint)' in run.error
  assert run.error.count('\n') == 1


@pytest.mark.parametrize('code', [2, exit_codes.DIVERGED, exit_codes.CLOSED])
def test_what_is_not_restarted(tmp_path, code):
  run = Supervised(tmp_path, [2], [['ignore', f'exit:{code}']])
  assert (run.code, run.sizes) == (code, [2])
  assert run.error == (
    f'Process 1 failed with exit code {code}; not restarted: the same command'
    ' would fail again.\n'
  )


def test_without_progress_it_gives_up_and_says_why(tmp_path):
  run = Supervised(tmp_path, [1], [['save:7 kill'], ['kill']], 2)
  assert (run.code, run.sizes) == (128 + 9, [1, 1, 1, 1])
  *restarts, last = run.error.splitlines()
  assert [x.rpartition('(')[2] for x in restarts[1:]] == [
    f'restart {i} of 2 without a newer checkpoint).' for i in (1, 2)
  ]
  assert last == (
    'error: gave up after 2 restarts without a newer checkpoint. Process 0 was'
    ' ended by SIGKILL. The last one is after step 7. Correct the cause and'
    ' rerun the same command to resume.'
  )


def test_a_place_that_stays_away_is_left_out_until_it_returns(tmp_path):
  """Twice by the same process; after a checkpoint all places are tried."""
  attempts = [
    ['wait', 'wait', 'kill'],
    ['wait', 'wait', 'kill'],
    ['save:10 wait'],  # With two; they save and stop for the third.
    ['wait', 'wait', 'kill'],  # It is still away.
    [
      'save:20 seen:20 save:30 wait'
    ],  # So the next two wait for two checkpoints.
    ['exit:0'] * 3,
  ]
  run = Supervised(tmp_path, [3, 2], attempts)
  assert (run.code, run.sizes) == (0, [3, 3, 2, 3, 2, 3])
  lines = run.error.splitlines()
  assert 'starting again with 2 of 3 processes' in lines[1]
  assert lines[2] == (
    '2 processes have saved a checkpoint: all are tried again; resuming after'
    ' step 10 with 3 of 3 processes.'
  )
  assert 'resuming after step 10 with 2 of 3 processes' in lines[3]
  assert 'resuming after step 30 with 3 of 3 processes' in lines[4]


def test_a_process_asked_to_stop_before_it_listens_has_not_failed(tmp_path):
  """As one that is still importing when the others have saved."""
  attempts = [
    ['wait', 'kill'],
    ['wait', 'kill'],
    ['save:10 deaf'],
    ['exit:0'] * 2,
  ]
  run = Supervised(tmp_path, [2, 1], attempts)
  assert (run.code, run.sizes) == (0, [2, 2, 1, 2])
  assert run.error.splitlines()[-1] == (
    '1 process has saved a checkpoint: all are tried again; resuming after'
    ' step 10 with 2 of 2 processes.'
  )


def test_processes_that_fail_by_turns_are_no_lost_place(tmp_path):
  attempts = [['wait', 'kill'], ['kill'], ['wait', 'kill'], ['exit:0'] * 2]
  run = Supervised(tmp_path, [2, 1], attempts)
  assert (run.code, run.sizes) == (0, [2, 2, 2, 2])


def test_sizes_that_do_not_divide_the_batch_are_skipped(tmp_path):
  attempts = [['wait'] * 3 + ['kill']] * 2 + [['exit:0'] * 4]
  run = Supervised(tmp_path, [4, 2], attempts)
  assert (run.code, run.sizes) == (0, [4, 4, 2])


ASKED = 'SIGTERM: all processes are asked to save and stop.\n'


def test_a_request_to_stop_is_passed_on_and_ends_all(tmp_path):
  attempts = [['save:3 wait', 'wait']]
  run = Supervised(tmp_path, [2], attempts, stop_at=2)
  assert (run.code, run.sizes) == (exit_codes.PREEMPTED, [2])
  assert run.error == ASKED


def test_a_process_that_fails_while_it_stops_is_not_restarted(tmp_path):
  attempts = [['last', 'last']]
  run = Supervised(tmp_path, [2], attempts, stop_at=2)
  assert (run.code, run.sizes) == (1, [2])
  assert run.error == ASKED


class Launched(together.Followed):
  """A real run of two processes, of which some are killed."""

  def __init__(self, folder, *options, **changes):
    self.work = folder / 'work'
    folder.mkdir(exist_ok=True)
    words = runs.write(folder, log=Log(every=1, tensorboard=False), **changes)
    super().__init__(
      [
        *(sys.executable, '-m', 'train.launch', words, '--num_processes=2'),
        *('--workdir', str(self.work), *options),
      ],
      env=runs.environment(),
      stderr=subprocess.PIPE,
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    with self.process as process:
      process.kill()

  def kill_second(self):
    """SIGKILL for the process with number 1."""
    pid = self.process.pid
    path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
    os.kill(int(path.read_text().split()[1]), signal.SIGKILL)

  def finish(self):
    """Waits for the end; returns the exit code and the lines of errors."""
    error = self.rest(timeout=200)
    return self.process.returncode, error.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_process_changes_no_bit_of_the_result(tmp_path):
  changes = {
    'steps': 40,
    'evaluation': Evaluation(every=5, sequences=16),
    'checkpoint': Checkpoint(every=10),
    'compression': Compression('powersgd', rank=2, start_step=1),
  }
  with Launched(tmp_path / 'killed', '--elastic', **changes) as killed:
    killed.until('step 25 ')
    killed.kill_second()
    code, lines = killed.finish()
  assert code == 0, killed.out + '\n'.join(lines)
  assert lines == [
    'Process 1 was ended by SIGKILL; resuming after step 20 with 2 of 2'
    ' processes.'
  ]
  assert 'Continuing after step 20.' in killed.out
  with Launched(tmp_path / 'whole', **changes) as whole:
    assert whole.finish() == (0, [])
  results = [kills.Run(x.work, [], {}) for x in (killed, whole)]
  assert results[0].fingerprint() == results[1].fingerprint()
  assert results[0].numbers() == results[1].numbers()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_resumes_with_fewer_workers_and_then_with_all(tmp_path):
  """On 4 workers, on 2 with twice the micro-batches, and on 4 again."""
  with Launched(
    tmp_path / 'run',
    *('--elastic', '--min_processes=1'),
    steps=200,
    evaluation=Evaluation(every=5, sequences=16),
    checkpoint=Checkpoint(every=50),
    compression=Compression('powersgd', rank=2, start_step=1),
  ) as run:
    for _ in range(2):
      run.until('step   5 ')
      run.kill_second()
    run.until('2 workers on')
    run.until('4 workers on')
    code, lines = run.finish()
  assert code == 0, run.out + '\n'.join(lines)
  assert [re.search(r'with . of 2 processes', x)[0] for x in lines] == [
    f'with {n} of 2 processes' for n in (2, 1, 2)
  ]
  said = json.loads((run.work / 'config.json').read_text())
  assert (said['mesh']['replica'], said['accumulate_steps']) == (4, 1)


@pytest.mark.slow
def test_a_method_that_needs_all_workers_refuses_fewer(tmp_path):
  words = '--elastic', '--min_processes=1'
  compression = Compression('sign')
  with Launched(tmp_path / 'run', *words, compression=compression) as run:
    code, lines = run.finish()
  assert code == 2
  assert "compression.method 'sign' cannot: use another method" in run.out
  assert lines[0].endswith('not restarted: the same command would fail again.')
