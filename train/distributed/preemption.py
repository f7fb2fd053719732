"""Being asked to stop.

Schedulers send SIGTERM some time before they take a machine away.
"""

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
  """The run was asked to stop (SIGTERM), and everything is saved."""


class Preemption:
  """Listens for SIGTERM while it is entered."""

  def __init__(self) -> None:
    self._asked = False

  def __enter__(self) -> 'Preemption':
    # Among several processes JAX listens for it, and tells the others.
    if jax.process_count() == 1:
      self._before = signal.signal(signal.SIGTERM, self._notice)
    return self

  def __exit__(self, *_: Any) -> None:
    if jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self._before)

  def _notice(self, *_: Any) -> None:
    self._asked = True

  def due(self, step: int) -> bool:
    """Whether to stop after this step: the same answer on all processes.

    To be asked once after every step.
    """
    if jax.process_count() == 1:
      return self._asked
    return multihost_utils.reached_preemption_sync_point(step)
