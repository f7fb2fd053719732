"""Do the ways to start several processes lead to the same run?"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

import runs
from train import launch
from train.config import command_line, exit_codes
from train.config.schema import Compression


def launched(folder, *options):
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'train.launch',
      # What is sent does not matter here, and this compiles fastest.
      runs.write(folder, compression=Compression('dense')),
      '--num-processes',
      '2',
      '--workdir',
      str(folder / 'work'),
      *options,
    ],
    env=runs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def until_step(process, step):
  """Reads the output up to the line of an evaluation after that step."""
  for line in process.stdout:
    if re.match(rf'\[0\] step +{step} ', line):
      return
  pytest.fail(process.stderr.read())


def children(process):
  path = f'/proc/{process.pid}/task/{process.pid}/children'
  return [*map(int, pathlib.Path(path).read_text().split())]


def test_launch_runs_all_with_their_numbers_in_front(tmp_path):
  process = launched(tmp_path)
  out, error = process.communicate(timeout=200)
  assert process.returncode == 0, out + error
  assert {line[:4] for line in out.splitlines()} <= {'[0] ', '[1] '}
  assert '[0] 8 steps took the training loss from' in out
  summary = json.loads((tmp_path / 'work' / 'summary.json').read_text())
  assert summary['num_workers'] == 4


@pytest.mark.slow
def test_launch_passes_on_that_all_should_stop_and_ends_all_when_one_fails(
  tmp_path,
):
  long = '--steps', '100000', '--evaluation.every', '5'
  process = launched(tmp_path, *long)
  until_step(process, 10)
  process.terminate()
  out, _ = process.communicate(timeout=100)
  assert process.returncode == exit_codes.PREEMPTED
  stopped = int(re.search(r'Stopped after step (\d+), as asked', out)[1])
  process = launched(tmp_path, *long)
  until_step(process, 5 * (stopped // 5 + 3))
  os.kill(children(process)[1], signal.SIGKILL)
  _, error = process.communicate(timeout=100)
  assert process.returncode == 128 + signal.SIGKILL
  assert 'Process 1 was ended by SIGKILL; stopping the others.' in error


TWO = ['FILE', '--num_processes', '2']
ELASTIC = [*TWO, '--elastic']
SERVED = [*ELASTIC, '--rendezvous', 'h:1']


@pytest.mark.parametrize(
  ('words', 'said'),
  [
    ([], 'expected python -m train.launch CONFIG --num_processes VALUE ['),
    (['c.py'], 'expected python -m train.launch CONFIG --num_processes'),
    (['c.py', '--num_processes'], '--num_processes takes one value, got none'),
    (['--num_processes', 'two', 'c.py'], "be an integer, got 'two'"),
    (['--num-processes=0', 'c.py'], '--num_processes must be at least 1'),
    (['--num-processes', '2', 'none.py'], 'none.py: No such file'),
    (['FILE', '--num_processes', '3'], 'of the 3 processes, got 4'),
    (
      [*TWO, '--max_restarts', '2'],
      '--max_restarts is only for --elastic: leave it',
    ),
    ([*ELASTIC, '--min_processes', '3'], '--min_processes must be at most 2'),
    ([*ELASTIC, '--min_processes', '0'], '--min_processes must be at least'),
    (
      [*ELASTIC, '--mesh.replica', '0'],
      '--elastic needs a fixed number of workers: set mesh.replica, got 0',
    ),
    (
      [*ELASTIC, '--mesh.replica=6', '--batch_size=8', '--min_processes=1'],
      'batch_size must be a multiple of 3, the devices that share it with'
      ' --min_processes 1, got 8',
    ),
    ([*ELASTIC, '--hosts', '2'], '--hosts is only for --rendezvous'),
    (
      [*ELASTIC, '--rendezvous', 'h'],
      "--rendezvous must be HOST:PORT, got 'h'",
    ),
    (SERVED, 'needs a secret of at least 16 bytes'),
    ([*SERVED, '--host', '1'], '--host must be below 1, got 1'),
    (
      [*SERVED, '--token_file', 'none'],
      '--token_file none: No such file or directory',
    ),
  ],
)
def test_a_wrong_command_is_one_line(tmp_path, capsys, words, said):
  words = [runs.write(tmp_path) if w == 'FILE' else w for w in words]
  assert launch.main(words) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ')
  assert said in error
  assert error.count('\n') == 1


def test_help_says_what_it_does(capsys):
  with pytest.raises(SystemExit) as ended:
    launch.main(['--help'])
  assert not ended.value.code
  shown = capsys.readouterr().out
  assert 'python -m train.launch CONFIG --num_processes VALUE' in shown


@pytest.mark.slow
@pytest.mark.parametrize('tasks', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_slurm_is_found_without_a_word(tmp_path, tasks):
  """As srun sets the environment; with virtual devices for four workers."""
  path = runs.write(tmp_path, compression=Compression('dense'))
  processes = [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        'train',
        path,
        '--mesh.replica',
        '4',
        '--workdir',
        str(tmp_path / 'work'),
      ],
      env=runs.environment(
        SLURM_JOB_ID=str(os.getpid()),
        SLURM_STEP_NODELIST='127.0.0.1',
        SLURM_NTASKS=str(tasks),
        SLURM_PROCID=str(i),
        SLURM_LOCALID=str(i),
        SLURM_STEP_NUM_NODES='1',
      ),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(tasks)
  ]
  said = [process.communicate(timeout=200)[0] for process in processes]
  assert [process.returncode for process in processes] == [0] * tasks, said
  assert '4 workers on cpu' in said[0]
  for others in said[1:]:
    assert all(line.startswith('[Gloo]') for line in others.splitlines())


ROOT = pathlib.Path(launch.__file__).parents[1]


@pytest.mark.parametrize('code', [0, 2, 75])
def test_a_slurm_job_has_a_launcher_per_node(tmp_path, code):
  """With stubs of srun, which runs two tasks, scontrol and Python."""
  stubs = {
    'srun': 'shift; for i in 0 1; do SLURM_NODEID=$i "$@"; done; exit $CODE',
    'scontrol': (
      'if [[ $1 == show ]]; then echo first; echo second;'
      ' else echo "$@" >>queue; fi'
    ),
    '.venv/bin/python': (
      'echo "$@" >>commands; echo "$GREEDYLORE_TOKEN" >>tokens'
    ),
  }
  (tmp_path / '.venv' / 'bin').mkdir(parents=True)
  for name, text in stubs.items():
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o755)
  done = subprocess.run(
    ['bash', ROOT / 'launch' / 'slurm.sbatch', 'configs/quickstart.py'],
    cwd=tmp_path,
    env=os.environ
    | {
      'PATH': f'{tmp_path}:{os.environ["PATH"]}',
      'CODE': str(code),
      'SLURM_JOB_ID': '7',
      'SLURM_JOB_NODELIST': 'node[1-2]',
      'SLURM_JOB_NUM_NODES': '2',
    },
    check=False,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (code, '')
  assert (tmp_path / 'queue').exists() == (code == exit_codes.PREEMPTED)
  for i, line in enumerate((tmp_path / 'commands').read_text().splitlines()):
    options = launch_options(line.split())
    assert (options.host, options.hosts, options.num_processes) == (i, 2, 1)
    assert (options.rendezvous, options.min_processes) == ('first:8476', 2)
  first, second = (tmp_path / 'tokens').read_text().split()
  assert first == second
  assert len(first) == 32


def test_the_kubernetes_pods_have_a_launcher_each():
  """Read without a library for YAML, which nothing else here needs."""
  text = (ROOT / 'launch' / 'kubernetes-jobset.yaml').read_text()
  count = re.search(r'parallelism: (\d+)', text)[1]
  command = (
    re.search(r'command: \[(.*)\]', text)[1].replace("'", '').split(', ')
  )
  block = re.search(r'args:\n((?: +- .*\n)+)', text)[1]
  args = re.findall(r'- (--.*)', block.replace('$(JOB_COMPLETION_INDEX)', '3'))
  options = launch_options([*command[1:], *args])
  assert (options.host, options.hosts) == (3, int(count))
  assert 'name: GREEDYLORE_TOKEN' in text


def launch_options(words):
  """What the words of `python -m train.launch ...` mean; they must be valid."""
  assert words[:2] == ['-m', 'train.launch']
  options, overrides = command_line.read(words[2:], launch.Options, '')
  command_line.parse([options.config, *overrides], '')
  assert options.elastic
  return options


def test_killing_the_launcher_ends_its_processes(tmp_path):
  process = launched(tmp_path, '--steps', '100000')
  while len(pids := children(process)) < 2:
    time.sleep(0.01)
  process.kill()
  process.communicate(timeout=10)
  for _ in range(50):
    if not any(map(is_alive, pids)):
      return
    time.sleep(0.1)
  for pid in pids:
    os.kill(pid, signal.SIGKILL)
  pytest.fail('They were still there after 5 s.')


def is_alive(pid):
  """Whether there is such a process, and not only its exit code."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.slow
def test_closing_the_output_makes_all_processes_save_and_stop(tmp_path):
  """As with `| head`."""
  long = '--steps=100000', '--evaluation.every=5', '--checkpoint.every=0'
  with launched(tmp_path, *long) as process:
    until_step(process, 10)
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(100) == exit_codes.PREEMPTED
  assert not error
  assert [*(tmp_path / 'work' / 'checkpoints').iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize(
  'words',
  [
    ('train', 'FILE', '--log.every', '1', '--log.tensorboard', 'False'),
    ('train', '--help'),
    ('train.launch', '--help'),
  ],
)
def test_a_command_ends_silently_when_its_output_is_closed(tmp_path, words):
  words = [runs.write(tmp_path) if w == 'FILE' else w for w in words]
  words += [] if words[-1].startswith('--') else ['--workdir', str(tmp_path)]
  with subprocess.Popen(
    [sys.executable, '-m', *words],
    env=runs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(100), error) == (exit_codes.CLOSED, '')
