"""Results of a study, for the tests."""

from train.config.schema import Config, Mesh, Optimizer
from train.study import grid


def result(loss, sent=1000.0, seconds=0.01, **more):
  """A line of results.jsonl: 4 workers, 100 steps."""
  return {
    'seconds_per_step': seconds,
    'summary': {
      'final_eval_loss': loss,
      'final_eval_bits_per_byte': loss / 2,
      'num_workers': 4,
      'bytes_per_step': sent,
      'compression': 6000.0 / sent,
      **more,
    },
    'curve': {
      'evaluations': [
        {'step': step, 'eval_loss': loss + rest, 'bytes_sent': step * sent}
        for step, rest in ((50, 0.5), (100, 0.0))
      ]
    },
  }


def run(method, budget=None, rate=1e-3, group=None):
  return grid.Run(
    method,
    group or method,
    budget,
    grid.Knob('rank', 3) if budget else None,
    '',
    '',
    (),
    Config(optimizer=Optimizer(learning_rate=rate), mesh=Mesh(replica=4)),
  )
