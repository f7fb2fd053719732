"""The entries above a threshold that a refresh recomputes."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Phase
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class ThresholdTopK(Compressor):
  """The entries above a threshold, which an exact top-k recomputes.

  With K = density * a * b, a refresh sends

    S_i = H_i at its K entries of largest magnitude, else 0
    tau = mean_i min |the entries of S_i that are sent|,

  and each of the `update_interval` - 1 steps after it, without sorting,

    S_i = H_i where |H_i| >= tau, at most slack * K entries, else 0.

  In both, every worker sends its entries and their places to all others, who
  receive N times as much, and output = mean_i S_i, E_i = H_i - S_i.

  Shapes are static: a step sends slack * K values and places, used or not. If
  more entries are above the threshold, those that come first after a random
  place in the matrix are sent, and the others stay in the error. The threshold
  is equal on all workers, and follows from what they receive at a refresh.

  Args:
    density: share of the entries that a refresh sends, in (0, 1]. Lower sends
      less and approximates worse.
    update_interval: steps from one refresh to the next. Lower follows the
      errors more closely and sorts more often.
    slack: how many times as many entries other steps may send, at least 1.
      Lower sends less and leaves more in the error when there are many.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.ThresholdTopK(density=0.01), 'data')

  References:
    Dynamic Communication Thresholding, arXiv 2010.08899 (2020), Algorithm 1.
  """

  density: float
  update_interval: int = 100
  slack: float = 1.5

  takes_several = True

  def __post_init__(self) -> None:
    checks.check_share('density', self.density)
    checks.check_integer('update_interval', self.update_interval)
    checks.check_positive('slack', self.slack)
    if self.slack < 1:
      raise ValueError(f'slack must be at least 1, got slack={self.slack!r}.')

  def needs_whole(self, phase: Phase) -> bool:
    """Entries are counted over all of their matrix."""
    return phase != 'warmup'

  def init(self, k: int, a: int, b: int, dtype: DType) -> Array:
    """The thresholds, [k]; the first compressed step is a refresh."""
    del a, b
    return jnp.zeros(k, dtype)

  def refresh(self, h: Array, threshold: Array, key: Array) -> Rounds:
    """One round: the largest entries, of which the threshold follows."""
    del threshold, key
    flat = h.reshape(len(h), -1)
    values, places = parts.largest_entries(
      flat, parts.share_of(flat.shape[1], self.density)
    )
    output, sent, received = yield from parts.gather_entries(
      values, places, h.shape
    )
    smallest = jnp.min(jnp.abs(received), axis=-1)
    return output, sent, jnp.mean(smallest, axis=0)

  def compress(self, h: Array, threshold: Array, key: Array) -> Rounds:
    """One round: the entries above the threshold."""
    flat = h.reshape(len(h), -1)
    size = flat.shape[1]
    begin = yield from parts.uniform(key, (len(h),))
    count = parts.share_of(size, self.density)
    capacity = min(size, math.ceil(self.slack * count))
    magnitudes = jnp.abs(flat)
    above = (magnitudes >= threshold[:, None]) & (magnitudes > 0)
    places, used = _places(above, begin, capacity)
    values = jnp.take_along_axis(flat, places, axis=1)
    # A NaN is not above anything.
    finite = jnp.all(jnp.isfinite(flat), axis=1, keepdims=True)
    values = jnp.where(finite, jnp.where(used, values, 0), jnp.nan)
    output, sent, _ = yield from parts.gather_entries(values, places, h.shape)
    return output, sent, threshold


def _places(chosen: Array, begin: Array, capacity: int) -> tuple[Array, Array]:
  """The places of chosen entries, and which of these places are used.

  Args:
    chosen: which entries, [k, n].
    begin: where the first one is, as a share of those chosen, [k].
    capacity: how many places to return.

  Returns:
    places and used, [k, capacity].
  """
  so_far = jnp.cumsum(chosen, axis=1, dtype=jnp.int32)
  total = so_far[:, -1:]
  first = jnp.floor(begin[:, None] * total.astype(begin.dtype))
  slots = jnp.arange(capacity, dtype=jnp.int32)[None]
  wanted = (first.astype(jnp.int32) + slots) % jnp.maximum(total, 1) + 1
  return _first(so_far, wanted), slots < total


def _first(ascending: Array, wanted: Array) -> Array:
  """Where numbers that ascend, [k, n], first reach those wanted, [k, m].

  By bisection: `jnp.searchsorted` of jax 0.12 fails where a worker is several
  devices. The last place for what is not reached.
  """
  n = ascending.shape[1]
  steps = n.bit_length()

  def halve(i: Array, below: Array) -> Array:
    further = below + (1 << (steps - 1 - i)).astype(below.dtype)
    last = jnp.minimum(further, n) - 1
    is_below = jnp.take_along_axis(ascending, last, axis=1) < wanted
    return jnp.where((further <= n) & is_below, further, below)

  found = jax.lax.fori_loop(0, steps, halve, jnp.zeros_like(wanted))
  return jnp.minimum(found, n - 1)
