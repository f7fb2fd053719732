"""How many local steps a round has."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array


@dataclasses.dataclass(frozen=True)
class QSR:
  """The quadratic synchronisation rule: longer rounds at lower learning rates.

  A round that begins at a learning rate eta has

    H = max(min_steps, floor((alpha / eta)^2))

  steps, so all workers know its length without a message. While the rate rises,
  in a warm-up, the current one counts.

  Args:
    learning_rate: the inner optimizer's schedule, of the steps taken.
    alpha: higher sends less. The reference uses 0.01 to 0.03 for AdamW.
    min_steps: the shortest round.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> schedule = optax.cosine_decay_schedule(3e-3, 1000)
    >>> every = gl.QSR(schedule, alpha=0.0175, min_steps=4)

  References:
    QSR, arXiv 2310.14423 (2023), equation 2.
  """

  learning_rate: float | Callable[[Array], Any]
  alpha: float
  min_steps: int = 1

  def __post_init__(self) -> None:
    checks.check_positive('alpha', self.alpha)
    checks.check_integer('min_steps', self.min_steps)

  def steps(self, start: Array, now: Array) -> Array:
    """The length of a round that began at step `start`, as known at `now`."""
    rate = self.learning_rate
    rates = [rate(x) if callable(rate) else rate for x in (start, now)]
    eta = jnp.max(jnp.asarray(rates, jnp.float32))
    # At a rate of 0 a round never ends, as nothing moves either.
    ratio = jnp.where(eta > 0, self.alpha / jnp.maximum(eta, 1e-20), jnp.inf)
    longest = jnp.minimum(jnp.floor(ratio**2), 2.0**30)
    return jnp.maximum(self.min_steps, longest.astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class Rule:
  """The length of every round: a number or a rule, after a start of ones."""

  every: int | QSR
  start_step: int = 0

  def __post_init__(self) -> None:
    if not isinstance(self.every, QSR):
      checks.check_integer('every', self.every)
    checks.check_integer('start_step', self.start_step, at_least=0)

  @property
  def shortest(self) -> int:
    """The length of the shortest rounds after the start."""
    return self.every.min_steps if isinstance(self.every, QSR) else self.every

  def steps(self, start: Array, now: Array) -> Array:
    """The length of a round that began at step `start`, as known at `now`."""
    if isinstance(self.every, QSR):
      steps = self.every.steps(start, now)
    else:
      steps = jnp.int32(self.every)
    return jnp.where(start < self.start_step, 1, steps)

  def length(self, start: int) -> int:
    """The length of a round that begins at step `start`, for a number."""
    if start < self.start_step:
      return 1
    if not isinstance(self.every, QSR):
      return self.every
    length, begin = self.every.min_steps, jnp.int32(start)
    while (found := self.every.steps(begin, begin + length - 1)) > length:
      length = min(int(found), 2 * length)
    return length
