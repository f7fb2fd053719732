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

  steps, so all workers know its length without a message.

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

  def steps(self, count: Array) -> Array:
    """The length of a round that begins after `count` steps."""
    rate = self.learning_rate
    eta = jnp.asarray(rate(count) if callable(rate) else rate, jnp.float32)
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

  def steps(self, count: Array) -> Array:
    """The length of a round that begins after `count` steps."""
    every = self.every
    steps = every.steps(count) if isinstance(every, QSR) else jnp.int32(every)
    return jnp.where(count < self.start_step, 1, steps)

  def steps_at(self, count: int) -> int:
    """`steps` for a number."""
    if not isinstance(self.every, QSR):
      return 1 if count < self.start_step else self.every
    return int(self.steps(jnp.int32(count)))
