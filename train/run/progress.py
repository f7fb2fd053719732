"""What a person sees during a run."""

from collections.abc import Iterator
import contextlib
import sys
import time
from typing import Any

import jax
from rich import console, progress, table

from train.run import metrics


class _Console(console.Console):
  """Leaves it to the command what happens when its output is not read."""

  def on_broken_pipe(self) -> None:
    """Called where the error is handled; rich would exit."""
    raise


class Bar:
  """A line per evaluation; on a terminal, with a progress bar below them."""

  def __init__(self, total: int, done: int, shown: bool):
    self._console = _Console(highlight=False, quiet=not shown)
    self._total = total
    self._training = ''
    self._bar = progress.Progress(
      progress.BarColumn(8),
      progress.MofNCompleteColumn(
        table_column=table.Column(min_width=2 * len(str(total)) + 1)
      ),
      progress.TextColumn('{task.fields[text]}'),
      progress.TimeRemainingColumn(elapsed_when_finished=True),
      console=self._console,
      disable=not (shown and sys.stdout.isatty()),
    )
    self._task = self._bar.add_task('', total=total, completed=done, text='')

  def __enter__(self) -> 'Bar':
    self._bar.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.stop()

  def advance(self, step: int) -> None:
    """Moves the bar."""
    self._bar.update(self._task, completed=step)

  def show(self, line: dict[str, Any]) -> None:
    """Shows a line of metrics in the bar; prints it if it is an evaluation.

    The last numbers of training follow those of an evaluation.
    """
    text = describe(line)
    if 'eval_loss' in line:
      step = f'step {line["step"]:>{len(str(self._total))}}'
      self.say(f'{step}  {text}{self._training}')
    else:
      self._training = f'  training {text}'
      self._bar.update(self._task, text=text)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._console.print(text, markup=False, soft_wrap=True)


class Clock:
  """Seconds spent in training steps; evaluations and checkpoints left out."""

  def __init__(self, seconds: float, step: int):
    self._origin = time.monotonic() - seconds
    self._lap = step, seconds

  @property
  def seconds(self) -> float:
    """Since the first step, earlier parts of the run included."""
    return time.monotonic() - self._origin

  def lap(self, step: int) -> float:
    """Steps per second since the last lap."""
    (was, then), self._lap = self._lap, (step, self.seconds)
    return (step - was) / (self._lap[1] - then)

  @contextlib.contextmanager
  def stopped_after(self, result: Any) -> Iterator[None]:
    """Does not count what happens once `result` has been computed."""
    jax.block_until_ready(result)
    stopped = time.monotonic()
    yield
    self._origin += time.monotonic() - stopped


def describe(line: dict[str, Any]) -> str:
  """A line of metrics.jsonl in a few words."""
  if 'eval_loss' in line:
    return f'held-out loss {line["eval_loss"]:.4f}{metrics.format_scores(line)}'
  sent, dense = map(
    metrics.format_bytes, (line['bytes_sent'], line['dense_bytes'])
  )
  unit = next(x for x in line if x.endswith('_per_second'))
  speed = f'{line[unit]:,.0f} {unit.removesuffix("_per_second")}/s'
  return f'loss {line["loss"]:.3f}  {speed}  sent {sent} of {dense}'
