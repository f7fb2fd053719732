"""A run that survives the loss of its processes.

JAX cannot replace a process of a running program on all devices. So when one is
lost, the launcher ends the others and starts all again from the last complete
checkpoint.
"""

from collections.abc import Callable, Sequence
import dataclasses

from train.config import exit_codes
from train.distributed import crew


@dataclasses.dataclass
class Policy:
  """How many processes the next attempt has, and when to give up.

  A machine does not say that one of its places is away. So a place counts as
  lost when the process with the same number fails first in two attempts in a
  row without a newer checkpoint; the next attempt has fewer processes. As soon
  as that one has saved `patience` checkpoints, all places are tried again. If
  this fails before the next checkpoint, the attempt after it has as few as
  before, and the patience doubles.

  Attributes:
    sizes: the numbers of processes that the run can have, from all down.
    max_restarts: restarts in a row without a newer checkpoint.
  """

  sizes: tuple[int, ...]
  max_restarts: int

  def __post_init__(self) -> None:
    self.size = self.sizes[0]
    """Processes of the next attempt."""
    self.failures = 0
    """Attempts in a row that ended without a newer checkpoint."""
    self._patience = 1
    self._suspect: int | None = None
    self._smaller: int | None = None  # Before all places were tried again.

  @property
  def has_given_up(self) -> bool:
    """Whether no attempt is left."""
    return self.failures > self.max_restarts

  def is_return_due(self, checkpoints: int) -> bool:
    """Whether an attempt that saved so many should make room for all places."""
    return self.size < self.sizes[0] and checkpoints >= self._patience

  def after(self, first: int | None, is_progress: bool) -> None:
    """Decides on the next attempt after one that ended.

    Args:
      first: the process that failed first; None if none did.
      is_progress: whether there is a newer checkpoint than before.
    """
    if is_progress:
      whole = self.size == self.sizes[0]
      self._patience = 1 if whole else self._patience
      self._smaller = None if whole else self.size
      self.failures, self._suspect, self.size = 0, None, self.sizes[0]
      return
    self.failures += 1
    if self._smaller is not None:
      self.size, self._smaller = self._smaller, None
      self._patience *= 2
    elif first is not None and first == self._suspect:
      self.size = next((x for x in self.sizes if x < self.size), self.size)
      self._suspect = None
    else:
      self._suspect = first


def run(
  launcher: crew.Launcher,
  policy: Policy,
  commands: Callable[[int], Sequence[Sequence[str]]],
  last_step: Callable[[], int],
) -> int:
  """Runs attempts until one finishes; returns the exit code.

  Args:
    launcher: runs the processes.
    policy: how many, and how often.
    commands: from the number of processes of an attempt to their commands.
    last_step: the step of the last complete checkpoint, 0 if there is none.
  """
  while True:
    size, attempt = policy.size, _Attempt(launcher, policy, last_step)
    end = launcher.run(commands(size), tick=attempt.tick)
    if launcher.is_asked_to_stop or not any(end.codes):
      return end.code
    if end.code in exit_codes.FINAL:
      crew.say(f'{end}; not restarted: the same command would fail again.')
      return end.code
    step = last_step()
    policy.after(end.first, step > attempt.begin)
    if policy.has_given_up:
      last = f'The last one is after step {step}' if step else 'There is none'
      crew.say(
        f'error: gave up after {policy.max_restarts} restarts without a newer'
        f' checkpoint. {end}. {last}. Correct the cause and rerun the same'
        ' command to resume.'
      )
      return end.code
    what = str(end)
    if attempt.makes_room and end.first is None:
      have = 'process has' if size == 1 else 'processes have'
      what = f'{size} {have} saved a checkpoint: all are tried again'
    where = f'resuming after step {step}' if step else 'starting again'
    restarts = (
      f' (restart {policy.failures} of {policy.max_restarts} without a newer'
      ' checkpoint)'
    )
    crew.say(
      f'{what}; {where} with {policy.size} of {policy.sizes[0]} processes'
      f'{restarts if policy.failures else ""}.'
    )


class _Attempt:
  """What happens while the processes of an attempt run."""

  def __init__(
    self, launcher: crew.Launcher, policy: Policy, last_step: Callable[[], int]
  ):
    self.begin = last_step()
    self.makes_room = False
    self._launcher, self._policy, self._last_step = launcher, policy, last_step
    self._saved: set[int] = set()

  def tick(self) -> None:
    """Ends an attempt with few processes when all are to be tried again."""
    if (step := self._last_step()) > self.begin:
      self._saved.add(step)
    is_due = self._policy.is_return_due(len(self._saved))
    if is_due and not self.makes_room:
      self.makes_room = True
      self._launcher.ask_to_stop()
