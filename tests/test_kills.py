"""Does a run that is killed at random moments end like one that is not?"""

import json
import random
import subprocess
import sys
import time

import runs

KILLS = 5


def command(folder, workdir):
  """120 steps with a checkpoint every 3, so that many are cut off."""
  return [
      sys.executable, '-m', 'train', runs.write(folder),
      '--workdir', str(workdir),
      '--steps', '120', '--checkpoint.every', '3', '--evaluation.every', '30',
      '--mesh.replica', '2',
  ]  # fmt: skip


def numbers(workdir):
  """Everything that was measured, except for times."""
  return [
      {k: v for k, v in line.items() if 'second' not in k}
      for line in runs.lines_of(workdir)
  ]


def killed_at_random(folder, workdir, kills, rng):
  """Starts a run again and again; says at which steps it was killed."""
  steps = []
  while len(steps) < kills:
    before = last_step(workdir)
    process = subprocess.Popen(
        command(folder, workdir), env=runs.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    # Not while it starts: that nothing is lost there shows itself.
    while last_step(workdir) <= before and process.poll() is None:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.6))
    process.kill()
    _, error = process.communicate()
    assert process.returncode in (-9, 0), error.decode()
    if process.returncode == 0:
      break
    steps.append(last_step(workdir))
  return steps


def last_step(workdir):
  try:
    return runs.lines_of(workdir)[-1]['step']
  except (FileNotFoundError, IndexError, json.JSONDecodeError):
    return 0


def finish(folder, workdir):
  subprocess.run(
      command(folder, workdir), env=runs.environment(), check=True,
      stdout=subprocess.DEVNULL,
  )  # fmt: skip


def test_kills_change_nothing(tmp_path):
  steps = killed_at_random(
      tmp_path, tmp_path / 'killed', KILLS, random.Random(0)
  )
  assert steps, 'The run ended before it could be killed; give it more steps.'
  finish(tmp_path, tmp_path / 'killed')
  finish(tmp_path, tmp_path / 'whole')
  assert numbers(tmp_path / 'killed') == numbers(tmp_path / 'whole')
