"""Methods that send some of the numbers as they are."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, Function, Phase, PyTree
from greedylore_jax._src.wire.rounds import Rounds
from greedylore_jax.compressors import parts
from greedylore_jax.compressors.compressor import Compressor


@dataclasses.dataclass(frozen=True)
class TopK(Compressor):
  """The largest numbers, by columns equal on all workers or by own entries.

  With 'shared' indices and v_1..v_m ~ N(0, I_a) equal on all workers,

    lambda_i = H_i^T [v_1 .. v_m]         sent: b * m numbers
    J = the columns of largest sum_m (mean_i lambda_i)^2
    S_i = H_i on the columns J            sent: a * density * b numbers
    output = mean_i S_i,   E_i = H_i - S_i,

  so columns (of length a, the short side) compete by the energy of their mean;
  in an embedding they are tokens. With 'own' indices every worker sends the
  entries of its H_i that are largest in magnitude, and their places in
  log2(a b) bits each, to all others, who receive N times as much.

  Args:
    density: share of the numbers that is sent, in (0, 1]. Lower sends less and
      approximates worse.
    indices: 'shared' or 'own'.
    probes: m, random probes that score the columns; only for 'shared'.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.TopK(density=0.05), 'data')

  References:
    Shared: after ARC-Top-K, arXiv 2510.26709 (2025). Own: Stich et al.,
    Sparsified SGD with Memory, arXiv 1809.07599 (2018).
  """

  density: float
  indices: Literal['shared', 'own'] = 'shared'
  probes: int = 4

  takes_several = True

  def __post_init__(self) -> None:
    checks.check_share('density', self.density)
    checks.check_choice('indices', self.indices, ('shared', 'own'))
    checks.check_integer('probes', self.probes)

  @property
  def linear(self) -> bool:  # type: ignore[override]
    """Shared indices follow from the mean."""
    return self.indices == 'shared'

  def needs_whole(self, phase: Phase) -> bool:
    """Entries compete with all others of their matrix."""
    return phase == 'compress' and self.indices == 'own'

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """Two rounds of means, or one in which entries are gathered."""
    method = self._columns if self.indices == 'shared' else self._entries
    output, sent = yield from method(h, key)
    return output, sent, state

  def _columns(self, h: Array, key: Array) -> Rounds:
    k, a, b = h.shape
    v = yield from parts.normal(key, (k, a, self.probes), h.dtype)
    scores, _ = yield h.mT @ v
    count = parts.share_of(b, self.density)
    _, columns = jax.lax.top_k(parts.energies(scores, axis=-1), count)
    chosen = jnp.take_along_axis(h, columns[:, None, :], axis=2)
    mean, local = yield chosen
    put: Function = jax.vmap(
      lambda x, j: jnp.zeros((a, b), x.dtype).at[:, j].set(x)
    )
    return put(mean, columns), put(local, columns)

  def _entries(self, h: Array, key: Array) -> Rounds:
    del key
    k, a, b = h.shape
    values, places = parts.largest_entries(
      h.reshape(k, a * b), parts.share_of(a * b, self.density)
    )
    output, sent, _ = yield from parts.gather_entries(values, places, h.shape)
    return output, sent


@dataclasses.dataclass(frozen=True)
class RandomK(Compressor):
  """Entries drawn at random in every step, the same on all workers.

  Args:
    density: share of the numbers that is sent, in (0, 1]. Lower sends less and
      approximates worse.

  Raises:
    ValueError, TypeError: for arguments out of range.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.compress_gradients(gl.RandomK(density=0.05), 'data')

  References:
    Stich et al., Sparsified SGD with Memory, arXiv 1809.07599 (2018).
  """

  density: float

  linear = True
  takes_several = True

  def __post_init__(self) -> None:
    checks.check_share('density', self.density)

  def needs_whole(self, phase: Phase) -> bool:
    """Entries are drawn from all of their matrix."""
    return phase == 'compress'

  def compress(self, h: Array, state: PyTree, key: Array) -> Rounds:
    """One round: the chosen entries."""
    k, a, b = h.shape
    scores = yield from parts.uniform(key, (k, a * b))
    _, places = jax.lax.top_k(scores, parts.share_of(a * b, self.density))
    flat = h.reshape(k, a * b)
    chosen = jnp.take_along_axis(flat, places, axis=1)
    # Entries that are not drawn would hide that they are not finite.
    finite = jnp.all(jnp.isfinite(flat), axis=1, keepdims=True)
    chosen = jnp.where(finite, chosen, jnp.nan)
    mean, local = yield chosen[:, None]
    back: Function = lambda x: parts.scattered(x[:, 0], places, h.shape)
    return back(mean), back(local), state
