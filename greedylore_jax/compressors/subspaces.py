"""Controls for GreedyLore: the same basis, other choices of directions."""

import dataclasses

from greedylore_jax._src.types import Array
from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.lazy_basis import LazyBasis


@dataclasses.dataclass(frozen=True)
class FixedSubspace(LazyBasis):
  """The r leading directions of the last refresh ('lazy SVD', as in GaLore).

  P = U[:, :r] until the next refresh, so nothing outside its span is ever sent
  in between and the errors grow linearly (Proposition 1 of the reference).

  Args:
    rank: r, directions sent per matrix and step (at most a is used).
    update_interval: tau, steps from one refresh to the next.
    decomposition: 'gram' or 'svd', as for `GreedyLore`.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.FixedSubspace(rank=32), 'data')

  References:
    GreedyLore, arXiv 2507.08784 (2025), section on lazy SVD.
  """

  rank: int
  update_interval: int = 200
  decomposition: linalg.Decomposition = 'gram'

  def compress(self, h: Array, basis: Array, key: Array) -> Rounds:
    """One round: the factor of the leading directions."""
    del key
    p = basis[:, :, : self.rank]
    output, sent, _ = yield from parts.project(h, p)
    return output, sent, basis


@dataclasses.dataclass(frozen=True)
class RandomSubspace(LazyBasis):
  """r directions of the basis redrawn in every step, all equally likely.

  Args:
    rank: r, directions sent per matrix and step (at most a is used).
    update_interval: tau, steps from one refresh to the next.
    decomposition: 'gram' or 'svd', as for `GreedyLore`.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.RandomSubspace(rank=32), 'data')

  References:
    GreedyLore, arXiv 2507.08784 (2025), the ablation of the greedy choice.
  """

  rank: int
  update_interval: int = 200
  decomposition: linalg.Decomposition = 'gram'

  def compress(self, h: Array, basis: Array, key: Array) -> Rounds:
    """One round: the factor of directions drawn at random."""
    scores = yield from parts.uniform(key, h.shape[:2])
    p = yield from parts.top_columns(basis, scores, min(self.rank, h.shape[1]))
    output, sent, _ = yield from parts.project(h, p)
    return output, sent, basis
