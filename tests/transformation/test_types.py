"""Does a user's program pass strict type checks?"""

import subprocess
import sys

import pytest

PROGRAM = """
import greedylore_jax as gl

rules = [('embed|head', gl.TopK(0.05)), ('^norm', gl.Dense())]
tx = gl.compress_gradients(rules, 'data')
rest = [*rules, ('encoder', gl.Frozen()), ('', gl.PowerSGD(8))]
tx = gl.compress_gradients(rest, 'data')
plan: gl.Plan = gl.plan([('a', gl.TSR(4)), ('', gl.GreedyLore(4))], {})
"""


@pytest.mark.slow
def test_a_list_of_rules_may_be_kept_in_a_variable(tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM, encoding='utf-8')
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'mypy',
      '--strict',
      '--follow-imports=silent',
      str(program),
    ],
    capture_output=True,
    text=True,
    check=False,
    timeout=200,
  )
  assert done.returncode == 0, done.stdout
