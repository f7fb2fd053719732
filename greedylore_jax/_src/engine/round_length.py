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
  """The quadratic synchronization rule: longer rounds at lower learning rates.

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
    rate = self.learning_rate
    if not callable(rate):
      checks.check_positive('learning_rate', rate)
    checks.check_positive('alpha', self.alpha)
    checks.check_integer('min_steps', self.min_steps)

  def length(self, count: Array) -> Array:
    """H at the rate of the step after `count` steps."""
    rate = self.learning_rate
    eta = jnp.asarray(rate(count) if callable(rate) else rate, jnp.float32)
    # At a rate of 0 nothing moves, so nothing has to be sent.
    ratio = jnp.where(eta > 0, self.alpha / jnp.maximum(eta, 1e-20), jnp.inf)
    # A square that rounding puts just below a whole number counts as that.
    longest = jnp.minimum(jnp.floor(ratio**2 * (1 + 1e-6)), 2.0**30)
    return jnp.maximum(self.min_steps, longest.astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class SelSync:
  """Selective synchronization: a round ends when gradients change.

  Worker i smooths the squared norm of its gradients,

    s_i <- (1 - smoothing) s_i + smoothing |g_i|^2,

  and asks for the end of the round if s_i has changed by more than `threshold`
  times its value in this step. One number per step is averaged over the
  workers, so that all know whether anyone asked: unlike the other rules, this
  one communicates in every step.

  Args:
    threshold: relative change; higher sends less.
    smoothing: weight of the newest gradient; lower sends less.
    max_steps: the longest round.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = gl.local_updates(
    ...     optax.adamw(1e-3),
    ...     outer=optax.chain(gl.average_gradients('data'), optax.sgd(1.0)),
    ...     every=gl.SelSync(0.1),
    ...     axis_name='data',
    ... )

  References:
    SelSync, arXiv 2307.07950 (2023).
  """

  threshold: float
  smoothing: float = 0.1
  max_steps: int = 100

  def __post_init__(self) -> None:
    checks.check_positive('threshold', self.threshold)
    checks.check_share('smoothing', self.smoothing)
    checks.check_integer('max_steps', self.max_steps)

  def asks(self, norm: Array, gradients: Any) -> tuple[Array, Array]:
    """Whether this worker asks for the end of the round, and its new s_i."""
    squares = [
      jnp.sum(jnp.square(x.astype(jnp.float32)))
      for x in jax.tree.leaves(gradients)
    ]
    now = sum(squares, jnp.zeros([], jnp.float32))
    smooth = (1 - self.smoothing) * norm + self.smoothing * now
    # The first gradient has nothing to be compared with.
    new = jnp.where(norm == 0, now, smooth)
    new = jnp.where(jnp.isfinite(new), new, norm)
    asks = (norm > 0) & (jnp.abs(new - norm) > self.threshold * norm)
    return asks, new


Length = int | QSR | SelSync


@dataclasses.dataclass(frozen=True)
class Rule:
  """When rounds end.

  Attributes:
    every: the steps in a round, or a rule for them.
    start_step: every step before this one is a round.
    total_steps: a round ends with the last of these steps; None is no end.
  """

  every: Length
  start_step: int = 0
  total_steps: int | None = None

  def __post_init__(self) -> None:
    if not self.varies:
      rules = 'an int or a rule such as gl.QSR'
      checks.check_integer('every', self.every, expected=rules)
    checks.check_integer('start_step', self.start_step, at_least=0)
    if self.total_steps is not None:
      checks.check_integer('total_steps', self.total_steps)

  @property
  def shortest(self) -> int:
    """The length of the shortest rounds after the start."""
    if isinstance(self.every, SelSync):
      return 1
    return self.every.min_steps if isinstance(self.every, QSR) else self.every

  @property
  def varies(self) -> bool:
    """Whether rounds may be longer than the shortest."""
    return isinstance(self.every, QSR | SelSync)

  def ahead(self, fragments: int) -> list[int]:
    """By how many steps the rounds of each fragment are ahead of the first's.

    Raises:
      ValueError: if rounds vary, or are too short for a step of each fragment.
    """
    if fragments > 1 and self.varies:
      raise ValueError(
        'fragments need rounds of equal length, got every='
        f'{type(self.every).__name__}: use a number, or fragments=1.'
      )
    if 1 < fragments > self.shortest:
      raise ValueError(
        f'fragments must be at most every, {self.shortest}, so that each has a'
        f' step of its own, got {fragments}.'
      )
    return [i * self.shortest // fragments for i in range(fragments)]

  def check_delay(self, delay: int) -> None:
    """Raises unless a message arrives before the next one leaves."""
    checks.check_integer('delay', delay, at_least=0)
    if delay and isinstance(self.every, SelSync):
      raise ValueError(
        'delay needs rounds of a known length, and those of SelSync can be of'
        f' one step, got delay={delay}: leave it at 0, or pass another `every`.'
      )
    if delay and delay >= self.shortest:
      raise ValueError(
        'delay must be below the number of steps in a round,'
        f' {self.shortest}, got {delay}: a message has to arrive before the'
        ' next one leaves.'
      )

  @property
  def is_known(self) -> bool:
    """Whether it is known in advance which steps end a round."""
    return not isinstance(self.every, SelSync)

  def is_last(self, now: Array) -> Array:
    """Whether the run ends with step `now`."""
    return now + 1 == (self.total_steps or 0)

  def is_end(self, taken: Array, now: Array) -> Array:
    """Whether a round ends with step `now`, its step number `taken`."""
    length = self._length(now)
    if isinstance(self.every, QSR):
      length = jnp.minimum(length, self._length(now + 1 - taken))
    return (taken >= length) | self.is_last(now)

  def ends(self, ahead: int = 0) -> Iterator[bool]:
    """`is_end` for all steps from 0 on, as far as it is known in advance.

    If it is not, every step may be the end of a round.

    Args:
      ahead: steps by which the rounds of a fragment are ahead of others.
    """
    taken, of_start = ahead, 0
    for begin in itertools.count(0, _CHUNK):
      counts = begin + jnp.arange(_CHUNK, dtype=jnp.int32)
      for now, length in enumerate(
        jax.vmap(self._length)(counts).tolist(), begin
      ):
        taken += 1
        if taken == 1 or not isinstance(self.every, QSR):
          of_start = length
        is_end = taken >= min(of_start, length) or now + 1 == self.total_steps
        if is_end:
          taken = ahead if now < self.start_step else 0
        yield is_end or not self.is_known

  def _length(self, count: Array) -> Array:
    """The length of a round at the step after `count` steps."""
    if isinstance(self.every, QSR):
      rule = self.every.length(count)
    elif isinstance(self.every, SelSync):
      rule = jnp.int32(self.every.max_steps)
    else:
      rule = jnp.int32(self.every)
    return jnp.where(count < self.start_step, 1, rule)
