"""`python -m benchmarks.soak.kills`: are killed runs equal to undisturbed ones?

The run is ended by SIGKILL at random moments, often while a checkpoint is being
written, and resumed by the same command. Everything that it measures except
times must equal that of an uninterrupted run, and its last checkpoint must have
the same fingerprint.
"""

import argparse
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

from rich import progress

from benchmarks import machine
from train.run import metrics

COMMAND = [
  'configs/studies/soak.py',
  *('--steps', '2000'),
  *('--checkpoint.every', '5'),
  *('--log.every', '1'),
]


class Run:
  """A run of the trainer that can be killed."""

  def __init__(
    self, workdir: pathlib.Path, words: list[str], env: dict[str, str]
  ):
    """Args: the folder; the configuration and options; the environment."""
    self.workdir = workdir
    program = [sys.executable, '-m', 'train', *words]
    self._command = [*program, '--workdir', str(workdir)]
    self._env = env

  def step(self) -> int:
    """The last step in metrics.jsonl."""
    with contextlib.suppress(IndexError, json.JSONDecodeError):
      return metrics.read(self.workdir / 'metrics.jsonl')[-1]['step']
    return 0

  def numbers(self) -> list[dict[str, Any]]:
    """Everything that it measured, except for times."""
    return [
      {key: x for key, x in line.items() if 'second' not in key}
      for line in metrics.read(self.workdir / 'metrics.jsonl')
    ]

  def fingerprint(self) -> dict[str, int]:
    """Of the last checkpoint: parameters, moments, errors, bases."""
    folders = (self.workdir / 'checkpoints').glob('*/checksums/metadata')
    last = max(folders, key=lambda path: int(path.parts[-3]))
    return json.loads(last.read_text(encoding='utf-8'))['state']

  def unfinished(self) -> int:
    """Number of checkpoints whose writing was cut off."""
    return len([*(self.workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp')])

  def finish(self) -> None:
    """Runs to the end."""
    subprocess.run(
      self._command, env=self._env, check=True, stdout=subprocess.DEVNULL
    )

  def killed(self, kills: int, within: float, seed: int = 0) -> Iterator[int]:
    """Starts it again and again; yields the step at which it was killed.

    Args:
      kills: maximum number of kills; fewer if the run ends before.
      within: seconds after the first new step, uniformly at random.
      seed: of the moments.
    """
    moments = random.Random(seed)
    for _ in range(kills):
      before = self.step()
      with subprocess.Popen(
        self._command,
        env=self._env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
      ) as process:
        while self.step() <= before and process.poll() is None:
          time.sleep(0.01)
        time.sleep(moments.uniform(0, within))
        process.kill()
        _, error = process.communicate()
      if process.returncode == 0:
        return
      if process.returncode != -9:
        raise RuntimeError(error.decode())
      yield self.step()


def main() -> int:
  """Prints the results; 1 if the kills changed anything."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kills', type=int, default=50)
  kills = parser.parse_args().kills
  env = os.environ | {'JAX_PLATFORMS': 'cpu'}
  with tempfile.TemporaryDirectory() as folder:
    run = Run(pathlib.Path(folder) / 'killed', COMMAND, env)
    whole = Run(pathlib.Path(folder) / 'whole', COMMAND, env)
    steps, cut_off = [], 0
    for step in progress.track(run.killed(kills, 0.6), 'killing', kills):
      steps.append(step)
      cut_off += run.unfinished()
    run.finish()
    whole.finish()
    same = run.numbers() == whole.numbers()
    same = same and run.fingerprint() == whole.fingerprint()
  print(
    f'{len(steps)} kills at steps {steps}, {cut_off} of them while a'
    ' checkpoint was being written; metrics and last checkpoint are'
    f' {"the same" if same else "NOT the same"} as without kills'
    f' ({machine.describe()}).'
  )
  return 0 if same else 1


if __name__ == '__main__':
  sys.exit(main())
