"""Random columns by one method, and the others in one bit per number."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Function, Phase, PyTree
from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import compressor as compressor_lib
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.frozen import Frozen
from greedylore_jax.compressors.quantized import Sign

_DENSE = Dense()


class SplitColumnsState(NamedTuple):
  """State of `SplitColumns` for a leaf; equal on all workers.

  Attributes:
    order: int32 [k, b], all columns in random order; the first density * b of
      them are the chosen ones.
    chosen: the state of the method that sends the chosen columns.
  """

  order: Array
  chosen: PyTree


@dataclasses.dataclass(frozen=True)
class SplitColumns(Compressor):
  """Some columns by another compressor, the others by their signs.

  A share `density` of the b columns (of length a, the short side) is chosen at
  random, equal on all workers, and for `update_interval` steps sent by
  `compressor`. Of the other columns a worker sends the signs and the mean
  magnitude t of each, as `Sign` does of rows:

    output = compressor(H_i) on the chosen columns J
    output = mean_i t_i sign(H_i)         sent: a bits and t per other column.

  A column that is zero, such as the embedding of a token that did not occur,
  has t = 0 and stays zero. `frugal` is the optimizer for this: it keeps moments
  of the chosen columns only.

  Args:
    density: share of the columns that is chosen, in (0, 1]. Higher sends more
      and errs less.
    update_interval: steps until other columns are chosen.
    compressor: of the chosen columns, which it sees as a matrix of a x density
      b numbers. Its update interval, if it has one, must be this one.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> method = gl.SplitColumns(0.25, compressor=gl.Quantize(8))
    >>> tx = gl.compress_gradients(method, 'data')

  References:
    The split: FRUGAL, arXiv 2411.07837 (2024).
  """

  density: float = 0.25
  update_interval: int = 200
  compressor: Compressor = _DENSE

  def __post_init__(self) -> None:
    checks.check_share('density', self.density)
    checks.check_integer('update_interval', self.update_interval)
    compressor_lib.check(self.compressor)
    if isinstance(self.compressor, Frozen | SplitColumns):
      raise ValueError(
        'The compressor of SplitColumns must send what it is given, got'
        f' {self.compressor}.'
      )
    own = self.compressor.update_interval
    if own not in (None, self.update_interval):
      raise ValueError(
        'The compressor of SplitColumns renews its state with the columns:'
        f' give it update_interval={self.update_interval}, got {own}.'
      )

  @property
  def takes_several(self) -> bool:  # type: ignore[override]
    """Whether the method of the chosen columns does."""
    return self.compressor.takes_several

  def needs_whole(self, phase: Phase) -> bool:
    """Columns are gathered from anywhere."""
    return phase != 'warmup'

  def split(self, x: Array, state: SplitColumnsState) -> tuple[Array, Array]:
    """The chosen columns and the others, [k, a, b] -> [k, a, c], [k, a, d]."""
    count = parts.share_of(x.shape[2], self.density)
    chosen, others = jnp.split(state.order, [count], axis=1)
    return linalg.take_columns(x, chosen), linalg.take_columns(x, others)

  def join(
    self, chosen: Array, others: Array, state: SplitColumnsState
  ) -> Array:
    """Inverts `split`."""
    columns = jnp.concatenate([chosen, others], axis=2)
    return linalg.take_columns(columns, jnp.argsort(state.order, axis=1))

  def init(self, k: int, a: int, b: int, dtype: DType) -> SplitColumnsState:
    """Any columns, until the first refresh."""
    order = jnp.broadcast_to(jnp.arange(b, dtype=jnp.int32), (k, b))
    short, long = sorted((a, parts.share_of(b, self.density)))
    own = self.compressor.init(k, short, long, dtype)
    return SplitColumnsState(order, own)

  def refresh(self, h: Array, state: SplitColumnsState, key: Array) -> Rounds:
    """Other columns, and a refresh of their method if it has any."""
    k, _, b = h.shape
    of_order, of_method = _two_keys(key)
    scores = yield from parts.uniform(of_order, (k, b))
    state = state._replace(order=jnp.argsort(scores, axis=1).astype(jnp.int32))
    has_refresh = self.compressor.update_interval is not None
    method = (
      self.compressor.refresh if has_refresh else self.compressor.compress
    )
    return (yield from self._exchange(h, state, of_method, method))

  def compress(self, h: Array, state: SplitColumnsState, key: Array) -> Rounds:
    """The rounds of the method, and one for the signs."""
    return (yield from self._exchange(h, state, key, self.compressor.compress))

  def _exchange(
    self, h: Array, state: SplitColumnsState, key: Array, method: Any
  ) -> Rounds:
    chosen, others = self.split(h, state)
    is_tall = chosen.shape[1] > chosen.shape[2]
    turn: Function = lambda x: x.mT if is_tall else x
    mean, local, own = yield from method(turn(chosen), state.chosen, key)
    signs, signs_local = jnp.zeros(others.shape, others.dtype), others
    if others.size:
      signs, signs_local, _ = yield from Sign().compress(others.mT, (), key)
      signs, signs_local = signs.mT, signs_local.mT
    output = self.join(turn(mean), signs, state)
    sent = self.join(turn(local), signs_local, state)
    return output, sent, state._replace(chosen=own)


def _two_keys(key: Array) -> tuple[Array, Array]:
  """Two keys of one, or of n keys, [n] each."""
  split = jax.vmap(jax.random.split)(key.reshape(-1))
  return split[:, 0].reshape(key.shape), split[:, 1].reshape(key.shape)
