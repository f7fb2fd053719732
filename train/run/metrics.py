"""The log of a run: metrics.jsonl and TensorBoard."""

from collections.abc import Sequence
import contextlib
import math
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from train.run import json_files, paths

# Every line has these, as numbers.
_ALWAYS = ('step', 'bytes_sent', 'dense_bytes')


class Metrics:
  """A line of JSON per logged step, continued when a run resumes."""

  def __init__(
    self,
    workdir: pathlib.Path,
    step: int,
    *,
    tensorboard: bool = False,
    writes: bool = True,
  ):
    """Opens the files of a run that has taken `step` steps.

    Lines of later steps are dropped, because these steps will be run again.
    Only one process `writes`; the others keep their lines in memory.
    """
    self.workdir = workdir
    path = workdir / paths.METRICS
    self.lines = [x for x in read(path) if x['step'] <= step]
    self._file = self._board = None
    if not writes:
      return
    json_files.write_text(path, ''.join(map(_line, self.lines)))
    with json_files.writing(path):
      self._file = path.open('a', encoding='utf-8')
    if tensorboard:
      self._board = _Board(workdir / paths.TENSORBOARD, step)

  def write(self, step: int, **values: Any) -> None:
    """Adds a line."""
    self.lines.append({'step': step, **values})
    if self._file:
      with json_files.writing(pathlib.Path(self._file.name)):
        self._file.write(_line(self.lines[-1]))
        self._file.flush()
    if self._board:
      self._board.write(step, values)

  def last(self, name: str, default: Any = None) -> Any:
    """The most recent value of that name."""
    values = (x[name] for x in reversed(self.lines) if name in x)
    return next(values, default)

  def names(self, prefix: str) -> list[str]:
    """The names with that prefix, in the order in which they first appeared."""
    return list(
      dict.fromkeys(
        name for x in self.lines for name in x if name.startswith(prefix)
      )
    )

  def __enter__(self) -> 'Metrics':
    return self

  def __exit__(self, *_: Any) -> None:
    # Everything is flushed, unless that failed, which has been reported.
    for file in (self._file, self._board):
      if file:
        with contextlib.suppress(OSError):
          file.close()


class _Board:
  """Event files for TensorBoard.

  They are written in the thread of the caller, who sees the errors. The queue
  and thread of `tensorboardX.SummaryWriter` deadlock when the disk is full.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    """Begins a file that replaces all events after `step`."""
    self._folder = folder
    with json_files.writing(folder):
      folder.mkdir(exist_ok=True)
      self._file = event_file_writer.EventsWriter(str(folder / 'events'))
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step=step + 1, session_log=start)
      self._file.flush()

  def write(self, step: int, values: dict[str, float]) -> None:
    """Adds scalars."""
    with json_files.writing(self._folder):
      for name, value in values.items():
        self._add(step=step, summary=summary.scalar(name, value))
      self._file.flush()

  def _add(self, **fields: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._file.write_event(event)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a metrics.jsonl, with NaN for null.

  A last line that was cut off is left out.

  Raises:
    ValueError: if a line is damaged; the message names the file and the line.
  """
  lines = json_files.read_lines(path)
  for number, line in enumerate(lines, start=1):
    for key in _ALWAYS:
      if type(line.get(key)) not in (int, float):
        raise json_files.damaged_line(
          path, number, f'a number {key!r}, got {line.get(key)!r}'
        )
  return [
    {key: math.nan if x is None else x for key, x in line.items()}
    for line in lines
  ]


def curves(
  lines: Sequence[dict[str, Any]], most: int
) -> dict[str, list[dict[str, Any]]]:
  """All evaluations of a metrics.jsonl, and at most so many training losses.

  Each point has a step, a loss, bytes_sent and the seconds of training alone.
  """
  logged = [x for x in lines if 'loss' in x]
  steps = np.array([0, *(x['step'] for x in logged)])
  seconds = np.array([0.0, *(x['seconds'] for x in logged)])
  at = lambda x: round(float(np.interp(x['step'], steps, seconds)), 3)
  point = lambda x, loss: {
    'step': x['step'],
    loss: x[loss],
    'bytes_sent': x['bytes_sent'],
    'seconds': at(x),
  }
  return {
    'evaluations': [point(x, 'eval_loss') for x in lines if 'eval_loss' in x],
    'training': [point(x, 'loss') for x in thinned(logged, most)],
  }


def thinned(points: Sequence[Any], most: int) -> Sequence[Any]:
  """At most so many of the points, evenly, and always the last one."""
  every = -(-len(points) // most) or 1
  return points[::-1][::every][::-1]


def format_bytes(count: float) -> str:
  """Three digits and a decimal unit: '2.71 kB'."""
  unit, *larger = 'B', 'kB', 'MB', 'GB', 'TB'
  while count >= 999.5 and larger:
    count /= 1000
    unit, *larger = larger
  return f'{count:.3g} {unit}'


def format_scores(values: dict[str, Any]) -> str:
  """The scores other than the loss, as text: ', 0.912 accuracy'."""
  return ''.join(
    f', {value:.3f} {name.split("eval_")[1].replace("_", " ")}'
    for name, value in values.items()
    if 'eval_' in name and not name.endswith('eval_loss')
  )


def _line(values: dict[str, Any]) -> str:
  return json_files.dumps(values) + '\n'
