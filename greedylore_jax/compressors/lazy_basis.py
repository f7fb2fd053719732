"""A basis of old gradients, kept from one refresh to the next."""

import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Phase
from greedylore_jax._src.wire import linalg
from greedylore_jax._src.wire.rounds import Each, Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


class LazyBasis(Compressor):
  """Shared by the methods that choose directions from such a basis.

  The state is U, [k, a, a]: all left singular vectors of the mean matrix at the
  last refresh, by falling singular value.
  """

  rank: int
  update_interval: int
  decomposition: linalg.Decomposition
  linear = True
  takes_several = True

  def __post_init__(self) -> None:
    checks.check_integer('rank', self.rank)
    checks.check_integer('update_interval', self.update_interval)
    checks.check_choice('decomposition', self.decomposition, ('gram', 'svd'))

  def needs_whole(self, phase: Phase) -> bool:
    """A Gram matrix is a sum over parts of H; an SVD needs all of H."""
    return phase == 'refresh' and self.decomposition == 'svd'

  def init(self, k: int, a: int, b: int, dtype: DType) -> Array:
    """Before the first refresh any orthonormal basis will do."""
    del b
    return jnp.broadcast_to(jnp.eye(a, dtype=dtype), (k, a, a))

  def leading(self, basis: Array) -> Array:
    """The r leading directions, [k, a, r]."""
    return basis[:, :, : self.rank]

  def refresh(self, h: Array, basis: Array, key: Array) -> Rounds:
    """Everything is sent, and the basis is that of its mean."""
    h_mean, h_sent, _ = yield from parts.dense(h, basis, key)
    decompose = linalg.left_singular_basis(self.decomposition)
    basis = yield Each(decompose, h_mean)
    return h_mean, h_sent, basis
