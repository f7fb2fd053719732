"""What becomes of a run whose gradients are no numbers any more?"""

import json
import math

from studies import result, run
from train import __main__ as program
from train.config import exit_codes
from train.run import loop
from train.study import comparison, figure, results

QUICKSTART = 'configs/quickstart.py'


def test_it_has_an_exit_code_of_its_own(monkeypatch, capsys):
  def diverge(*_):
    raise FloatingPointError('The gradients were not finite.')

  monkeypatch.setattr(loop, 'run', diverge)
  assert program.main([QUICKSTART]) == exit_codes.DIVERGED
  assert exit_codes.DIVERGED not in (0, 2, exit_codes.INTERRUPTED)
  assert capsys.readouterr().err == 'error: The gradients were not finite.\n'


def test_to_a_study_it_is_a_result(tmp_path):
  lines = [
    {
      'step': 10,
      'loss': 5.0,
      'seconds': 1.0,
      'bytes_sent': 50,
      'dense_bytes': 200,
    },
    {
      'step': 20,
      'loss': math.nan,
      'seconds': 2.0,
      'bytes_sent': 100,
      'dense_bytes': 400,
    },
  ]
  text = ''.join(f'{json.dumps(line)}\n' for line in lines)
  (tmp_path / 'metrics.jsonl').write_text(text, encoding='utf-8')
  # What a run wrote before that ended well.
  (tmp_path / 'summary.json').write_text('{"final_eval_loss": 1.0}')
  line = results.describe(
    run('powersgd', 3.0, 0.1), 'hash', tmp_path, wall_seconds=4.0, diverged=True
  )
  summary = line['summary']
  assert summary['diverged_at'] == 20
  assert summary['final_eval_loss'] is None
  assert (summary['bytes_per_step'], summary['compression']) == (5.0, 4.0)
  # A rate that diverged for one seed is not the best, whatever the others did.
  good = result(2.0)
  rows = comparison.rows(
    [
      (run('dense'), result(1.9)),
      (run('powersgd', 3.0, 0.1), line),
      (run('powersgd', 3.0, 0.1), result(1.0)),
      (run('powersgd', 3.0, 0.01), good),
      (run('sign'), line),
    ]
  )
  assert rows[1].rate == 0.01
  assert '| sign |  |  | 0.001 | nan (1) |' in comparison.table(rows, 100.0)
  figure.draw(tmp_path / 'compare.png', rows, 100.0)
  # Before anything was evaluated there is no curve, and no number to compare.
  first = line | {'curve': {'evaluations': [], 'training': []}}
  alone = comparison.rows([(run('dense'), first), (run('sign'), first)])
  assert 'nan%' not in comparison.table(alone, 100.0)
  figure.draw(tmp_path / 'compare.png', alone, 100.0)
