"""A time limit on everything that a run waits for.

A process of a run waits in many places: for other processes in a collective,
for threads that read data or write checkpoints, for a device. Most of these
waits have no limit of their own. The watchdog limits all of them.
"""

from collections.abc import Callable
import os
import pathlib
import sys
import threading
import traceback
from typing import Any

from train.config import exit_codes

_TICK_SECONDS = 1.0
_PRINT_SECONDS = 5.0


class Watchdog:
  """Ends the process when it reports no progress for some time.

  While the process or the machine is suspended the time does not count.
  """

  def __init__(self, limit: int, process: Callable[[], int]):
    """Takes the seconds without progress, 0 for any, and which process it is.

    The number of the process may become known after this.
    """
    self._limit, self._process = limit, process
    self._last, self._idle = 'its start', 0.0
    self._main = threading.main_thread().ident
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def saw(self, progress: str) -> None:
    """Notes that there was progress: 'step 12'."""
    self._last, self._idle = progress, 0.0

  def __enter__(self) -> 'Watchdog':
    if self._limit:
      self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._ended.set()

  def _watch(self) -> None:
    while not self._ended.wait(_TICK_SECONDS):
      self._idle += _TICK_SECONDS
      if self._idle >= self._limit:
        # The main thread cannot be asked: it waits. Nor may a reader of the
        # message that does not read keep the process.
        code = exit_codes.STALLED
        threading.Timer(_PRINT_SECONDS, os._exit, [code]).start()
        print(f'error: {self._message()}', file=sys.stderr, flush=True)
        os._exit(code)

  def _message(self) -> str:
    return (
      'a run must make progress every'
      f' {self._limit} s (distributed.stall_timeout), but process'
      f' {self._process()} has waited since {self._last} in {self._place()}:'
      ' rerun the same command to resume from the last checkpoint, with a'
      ' higher limit if nothing was stuck.'
    )

  def _place(self) -> str:
    """The innermost line of the trainer in which the main thread is."""
    root = str(pathlib.Path(__file__).parents[2])
    trainer = os.path.join(root, 'train', '')
    frame = sys._current_frames().get(self._main or 0)
    stack = traceback.extract_stack(frame) if frame else []
    for call in reversed(stack):
      if call.filename.startswith(trainer):
        file = os.path.relpath(call.filename, root)
        return f'{file}, line {call.lineno} ({call.name})'
    return 'code of other libraries'
