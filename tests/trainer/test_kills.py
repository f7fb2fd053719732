"""Does a run that is killed at random moments end like one that is not?"""

import pytest

from benchmarks.soak import kills
import runs


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
  """120 steps with a checkpoint every 3, so that some are cut off."""
  words = [
    runs.write(tmp_path),
    '--steps',
    '120',
    '--checkpoint.every',
    '3',
    '--evaluation.every',
    '30',
    '--mesh.replica',
    '2',
  ]
  run = kills.Run(tmp_path / 'killed', words, runs.environment())
  steps = [*run.killed(5, within=0.6)]
  assert steps, 'The run ended before it could be killed; give it more steps.'
  run.finish()
  whole = kills.Run(tmp_path / 'whole', words, runs.environment())
  whole.finish()
  assert run.numbers() == whole.numbers()
  assert run.fingerprint() == whole.fingerprint()
