"""Are signals to a command answered as shells and schedulers expect?"""

import os
import signal
import threading
import time

from train import compare
from train.config import exit_codes


def test_being_asked_to_stop_is_handed_on(tmp_path):
  """The run may save; and no run is left behind."""
  ready = tmp_path / 'ready'
  program = (
    'import pathlib, signal, sys, time;'
    'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75));'
    f'pathlib.Path({str(ready)!r}).touch();'
    'time.sleep(60)'
  )

  def ask():
    while not ready.exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  threading.Thread(target=ask, daemon=True).start()
  assert compare.run_python(['-c', program]) == exit_codes.PREEMPTED
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_an_exit_code_as_in_a_shell():
  assert compare.run_python(['-c', 'import os; os.kill(os.getpid(), 9)']) == 137
  assert compare.run_python(['-c', 'raise SystemExit(3)']) == 3


def test_an_interrupt_at_any_time_is_a_line(capsys):
  """Also while JAX is imported, before a command has set anything up."""

  def main(argv):
    raise KeyboardInterrupt

  assert exit_codes.run(main) == exit_codes.INTERRUPTED
  assert capsys.readouterr().err == 'Interrupted.\n'
