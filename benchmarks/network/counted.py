"""The trainer, with the network card read between its steps.

`python -m benchmarks.network.counted READINGS CONFIG [--section.key VALUE ...]`
on a simulated host runs `python -m train CONFIG ...`. With log.every=1 it
writes one line to the file READINGS before the first step and after each step:
how many bytes and packets the card has sent so far.

A line is written when the loss of the step is known and the next step has not
been dispatched, so this host has nothing to send. It waits until the counter
stops changing, because the kernel may still hold packets back.
"""

import json
import pathlib
import sys
import time
from typing import Any

from benchmarks.network import hosts
from train import __main__ as trainer
from train.run import metrics

_STILL = 0.03  # Seconds without a change.
_PATIENCE = 2.0


def main(argv: list[str]) -> int:
  """Trains; returns the trainer's exit code."""
  readings, *rest = argv
  path = pathlib.Path(readings)

  class Counted(metrics.Metrics):
    """Metrics that also read the card."""

    def __init__(self, *args: Any, **kwargs: Any):
      super().__init__(*args, **kwargs)
      path.write_text('', encoding='utf-8')
      _read(path, 0)

    def write(self, step: int, **values: Any) -> None:
      super().write(step, **values)
      if 'loss' in values:
        _read(path, step)

  metrics.Metrics = Counted  # type: ignore[misc]
  return trainer.main(rest)


def _read(path: pathlib.Path, step: int) -> None:
  """Adds a line once the counter stands still."""
  sent, since = hosts.sent(), time.monotonic()
  until = since + _PATIENCE
  while time.monotonic() < min(since + _STILL, until):
    time.sleep(_STILL / 10)
    if (now := hosts.sent()) != sent:
      sent, since = now, time.monotonic()
  with path.open('a', encoding='utf-8') as file:
    file.write(json.dumps({'step': step, **sent._asdict()}) + '\n')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
