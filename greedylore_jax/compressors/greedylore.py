"""GreedyLore: a basis kept for a while, its best directions every step."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, DType, Phase
from greedylore_jax._src.wire import inner_axes, linalg
from greedylore_jax._src.wire.rounds import Each, Product, Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.lazy_basis import LazyBasis


@dataclasses.dataclass(frozen=True)
class GreedyLore(LazyBasis):
  """Greedy low-rank compression with a semi-lazy SVD.

  At a refresh everything is sent and all left singular vectors U of the mean
  are kept; until the next one, with H_i = G_i + E_i the gradient plus error of
  worker i and v_1..v_m ~ N(0, I_b) equal on all workers,

    lambda_i = U^T H_i [v_1 .. v_m]       sent: a * m numbers
    J = the r rows of largest sum_m (mean_i lambda_i)^2,   P = U[:, J]
    R_i = P^T H_i                         sent: r * b numbers
    output = P mean_i R_i,   E_i = H_i - P R_i.

  The scores are averaged with their signs and squared afterwards: they
  estimate the energies of the mean gradient, not the mean of the energies.

  Args:
    rank: r, directions sent per matrix and step (at most a is used). Lower
      sends less and approximates worse.
    update_interval: tau, steps from one refresh to the next. Lower follows the
      gradient more closely and sends more: a * b / tau numbers a step.
    probes: m, random probes that all directions share. More estimate the
      energies better and send a numbers each. 'independent' draws one probe
      for each direction, as in the paper: 2 a^2 b operations per matrix rather
      than 2 a b m, one score per direction. Only they guarantee r / a of the
      energy on average, for any gradients (docs/theory.md).
    basis_size: directions in U. None is all a of them, by a refresh that sends
      a * b numbers. A number is that many, from a randomized range finder,
      which sends basis_size * (a + b) numbers, so that no step is dense.
      Directions that it does not find stay in the errors.
    decomposition: 'gram' takes U from the eigenvectors of H H^T, which is a few
      times faster; 'svd' decomposes H itself, which separates directions
      whose singular values are below about 3e-4 of the largest (in float32).

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.GreedyLore(rank=32, probes=8), 'data')

  References:
    GreedyLore, arXiv 2507.08784 (2025), Algorithms 2 to 4.
  """

  rank: int
  update_interval: int = 200
  probes: int | Literal['independent'] = 4
  basis_size: int | None = None
  decomposition: linalg.Decomposition = 'gram'

  def __post_init__(self) -> None:
    super().__post_init__()
    if isinstance(self.probes, str):
      if self.probes != 'independent':
        raise ValueError(
          "probes must be a count of shared probes or 'independent', got"
          f' probes={self.probes!r}.'
        )
    else:
      checks.check_integer('probes', self.probes)
    if self.basis_size is not None:
      checks.check_integer('basis_size', self.basis_size, self.rank)

  def needs_whole(self, phase: Phase) -> bool:
    """Independent probes need all of U, or of U^T H."""
    independent = phase == 'compress' and self.probes == 'independent'
    return independent or super().needs_whole(phase)

  def init(self, k: int, a: int, b: int, dtype: DType) -> Array:
    """Before the first refresh any orthonormal directions will do."""
    return super().init(k, a, b, dtype)[:, :, : self.basis_size]

  def refresh(self, h: Array, basis: Array, key: Array) -> Rounds:
    """Everything is sent, or a sketch and what it spans."""
    if self.basis_size is None:
      return (yield from super().refresh(h, basis, key))
    k, a, b = h.shape
    size = min(self.basis_size, a)
    omega = yield from parts.normal(key, (k, b, size), h.dtype)
    q = yield from parts.range_of(h, omega)
    output, sent, factor = yield from parts.project(h, q)
    decompose = linalg.left_singular_basis(self.decomposition)
    within = yield Each(decompose, factor)
    return output, sent, q @ within

  def compress(self, h: Array, basis: Array, key: Array) -> Rounds:
    """Two rounds: scores, then the factor of the directions they chose."""
    local = yield from self._scores(h, basis, key)
    scores, _ = yield local
    energies = parts.energies(scores, axis=1)
    r = min(self.rank, basis.shape[2])
    p = yield from parts.top_columns(basis, energies, r)
    output, sent, _ = yield from parts.project(h, p)
    return output, sent, basis

  def _scores(self, h: Array, basis: Array, key: Array) -> Rounds:
    """This worker's lambda, m rows: [k, a, b], [k, a, n] -> [k, m, n]."""
    if self.probes == 'independent':
      rows = basis.mT @ h
      v = yield from parts.normal(key, rows.shape, h.dtype)
      return jnp.sum(rows * v, axis=-1)[:, None]
    k, _, b = h.shape
    v = yield from parts.normal(key, (k, b, self.probes), h.dtype)
    sketch = yield Product(h, v)
    return inner_axes.constrain(sketch.mT @ basis)
