"""How many local steps a round has."""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array

_CHUNK = 1024  # Steps whose lengths are computed at once.


@dataclasses.dataclass(frozen=True)
class QSR:
  """The quadratic synchronisation rule: longer rounds at lower learning rates.

  A round that begins at a learning rate eta has

    H = max(min_steps, floor((alpha / eta)^2))

  steps, so all workers know its length without a message. If the rate has risen
  since, as in a warm-up, the current one counts.

  Args:
    learning_rate: the inner optimizer's schedule, of the steps taken.
    alpha: higher sends less.
    min_steps: the shortest round.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> schedule = optax.cosine_decay_schedule(3e-3, 1000)
    >>> every = gl.QSR(schedule, alpha=0.0175, min_steps=4)

  References:
    QSR, arXiv 2310.14423 (2023).
  """

  learning_rate: float | Callable[[Array], Any]
  alpha: float
  min_steps: int = 1

  def __post_init__(self) -> None:
    checks.check_positive('alpha', self.alpha)
    checks.check_integer('min_steps', self.min_steps)

  def length(self, count: Array) -> Array:
    """H at the rate of the step after `count` steps."""
    rate = self.learning_rate
    eta = jnp.asarray(rate(count) if callable(rate) else rate, jnp.float32)
    # At a rate of 0 nothing moves, so nothing has to be sent.
    ratio = jnp.where(eta > 0, self.alpha / jnp.maximum(eta, 1e-20), jnp.inf)
    longest = jnp.minimum(jnp.floor(ratio**2), 2.0**30)
    return jnp.maximum(self.min_steps, longest.astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class Rule:
  """When rounds end.

  Attributes:
    every: the steps in a round, or a rule for them.
    start_step: every step before this one is a round.
    total_steps: a round ends with the last of these steps; None is no end.
  """

  every: int | QSR
  start_step: int = 0
  total_steps: int | None = None

  def __post_init__(self) -> None:
    if not isinstance(self.every, QSR):
      checks.check_integer('every', self.every)
    checks.check_integer('start_step', self.start_step, at_least=0)
    if self.total_steps is not None:
      checks.check_integer('total_steps', self.total_steps)

  @property
  def shortest(self) -> int:
    """The length of the shortest rounds after the start."""
    return self.every.min_steps if isinstance(self.every, QSR) else self.every

  def length(self, count: Array) -> Array:
    """The length of a round at the step after `count` steps."""
    every = self.every
    rule = every.length(count) if isinstance(every, QSR) else jnp.int32(every)
    return jnp.where(count < self.start_step, 1, rule)

  def is_end(self, start: Array, now: Array) -> Array:
    """Whether a round that began at step `start` ends with step `now`."""
    length = jnp.minimum(self.length(start), self.length(now))
    is_last = now + 1 == (self.total_steps or 0)
    return (now - start + 1 >= length) | is_last

  def ends(self) -> Iterator[bool]:
    """`is_end` for all steps from 0 on."""
    start = of_start = 0
    for begin in itertools.count(0, _CHUNK):
      counts = begin + jnp.arange(_CHUNK, dtype=jnp.int32)
      for now, length in enumerate(
        jax.vmap(self.length)(counts).tolist(), begin
      ):
        of_start = length if now == start else of_start
        is_last = now + 1 == self.total_steps
        is_end = is_last or now - start + 1 >= min(of_start, length)
        start = now + 1 if is_end else start
        yield is_end
