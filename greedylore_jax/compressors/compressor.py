"""What a compression method is, and the parts that several methods share."""

from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks as _checks
from greedylore_jax._src.wire import linalg as _linalg
from greedylore_jax._src.wire.rounds import Each
from greedylore_jax._src.wire.rounds import Rounds


class Compressor(Protocol):
  """A method: how a stack of matrices h, [k, a, b] with a <= b, is averaged.

  `compress` is a generator, and so is `refresh`, with the same arguments, of
  methods that have an `update_interval`. `mean, sent = yield message`, of an
  array [k, m, n], is one communication round: `mean` is the message's mean over
  the workers (equal on all of them), `sent` is what this worker really put on
  the wire (the message rounded to the dtype that travels). `x, y = yield
  Gather(x, y)` is one, too, and gives the arrays of all workers, [N, *shape].
  `y = yield Each(function, x)` is none: it gives the function of one matrix
  after the other. They return

    output: [k, a, b], equal on all workers; stands for mean_i h_i.
    sent: [k, a, b], one per worker: this worker's share of the output, such
      that mean_i sent_i == output. The error kept for later is h - sent.
    memory: what the next step needs, equal on all workers.

  `key` is a PRNG key that is equal on all workers and new at every step. A
  method is hashable and never changes: a frozen dataclass of its settings.

  Attributes:
    update_interval: steps from one refresh to the next, the first compressed
      step being one; None for methods without refresh.
    linear: whether output and memory depend on the h_i only through their mean.
      Then a checkpoint of the mean error is enough to go on exactly, with any
      number of workers.

  Where a worker is several devices, matrices lie spread over them. A method
  that needs whole ones, so that the devices hand them to each other, may say in
  which kinds of steps: `needs_whole`, of 'refresh' and 'compress'.

  A method may accept leaves of equal shape together, `takes_several = True`:
  then `h` and the memory are those of n leaves one after the other, [n k, ...],
  and `key` is [n], a key per leaf, of which only that leaf's numbers may be
  drawn. It compiles faster, as a model has many leaves but few shapes.

  A method with a basis may have `leading(memory)`, its r leading directions,
  [k, a, r], orthonormal: their drift is among the `Diagnostics`.

  Example:
    Of every row its mean, a message of one column:

    >>> import dataclasses, greedylore_jax as gl, jax.numpy as jnp
    >>> @dataclasses.dataclass(frozen=True)
    ... class Means:
    ...   update_interval = None
    ...   linear = True
    ...
    ...   def init(self, k, a, b, dtype):
    ...     return ()
    ...
    ...   def compress(self, h, memory, key):
    ...     mean, sent = yield h.mean(axis=2, keepdims=True)
    ...     whole = lambda x: jnp.broadcast_to(x, h.shape)
    ...     return whole(mean), whole(sent), memory
    >>> plan = gl.plan(Means(), {'w': jnp.ones((8, 16))})
    >>> plan.bytes_in('compress')  # 8 numbers in float32
    32
  """

  @property
  def update_interval(self) -> int | None:
    """Steps from one refresh to the next, or None."""

  @property
  def linear(self) -> bool:
    """Whether only the mean of the h_i matters."""

  def init(self, k: int, a: int, b: int, dtype: Any) -> Any:
    """The memory before the first step."""

  def compress(self, h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
    """A step that sends a compressed form."""


def dense(h: jax.Array, memory: Any, key: jax.Array) -> Rounds:
  """Everything is sent: output = mean_i H_i."""
  del key
  h_mean, h_sent = yield h
  return h_mean, h_sent, memory


def project(h: jax.Array, p: jax.Array) -> Rounds:
  """R_i = P^T H_i is sent -> output = P R, sent = P R_i, and R = mean_i R_i.

  P, [k, a, r], is the same on all workers and its columns are orthonormal.
  """
  factor, local = yield _linalg.thin_product(p.mT, h)
  return p @ factor, p @ local, factor


def project_both(h: jax.Array, p: jax.Array, q: jax.Array) -> Rounds:
  """C_i = P^T H_i Q is sent -> output = P C Q^T, sent = P C_i Q^T, and C.

  P, [k, a, r], and Q, [k, b, s], are the same on all workers and orthonormal.
  """
  core, local = yield _linalg.thin_product(p.mT, h) @ q
  return p @ core @ q.mT, p @ local @ q.mT, core


def top_columns(basis: jax.Array, scores: jax.Array, count: int) -> Rounds:
  """The columns of highest score, [k, a, n], [k, n] -> [k, a, count]."""
  columns = yield Each(_linalg.largest(count), scores)
  return _linalg.take_columns(basis, columns)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Rounds:
  """Gaussian numbers, [k, ...], drawn as `_draw` says."""
  return _draw(jax.random.normal, key, shape, dtype)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> Rounds:
  """Numbers in [0, 1), [k, ...], drawn as `_draw` says."""
  return _draw(jax.random.uniform, key, shape, float)


def _draw(sample: Any, key: jax.Array, shape: Any, dtype: Any) -> Rounds:
  """Random numbers of one key, or of n keys, each for k / n matrices in a row.

  They are drawn for all leaves in one loop, like any `Each`.
  """
  k, *of_matrix = shape
  keys = key.reshape(-1)
  of_leaf = k // len(keys), *of_matrix
  draws = yield Each(_linalg.random_numbers(sample, of_leaf, dtype), keys)
  return draws.reshape(shape)


def range_of(
  h: jax.Array, omega: jax.Array, power_iterations: int = 0
) -> Rounds:
  """Orthonormal Q, [k, a, s], that spans most of the mean of the h_i.

  Sends the sketch by omega, [k, b, s], and 2 more for each power iteration.
  """
  y, _ = yield _linalg.thin_product(h, omega)
  q = yield Each(_linalg.orthonormal, y)
  for _ in range(power_iterations):
    z, _ = yield h.mT @ q
    q = yield Each(_linalg.orthonormal, z)
    y, _ = yield _linalg.thin_product(h, q)
    q = yield Each(_linalg.orthonormal, y)
  return q


def share_of(count: int, share: float) -> int:
  """A share of so many, at least 1."""
  return max(1, round(share * count))


class Memoryless(Compressor):
  """Shared by the methods that start every step afresh."""

  update_interval = None
  takes_several = True

  def init(self, k: int, a: int, b: int, dtype: Any) -> tuple[()]:
    """Nothing to remember."""
    del k, a, b, dtype
    return ()


class LazyBasis(Compressor):
  """Shared by the methods that choose directions from a basis of old gradients.

  The memory is U, [k, a, a]: all left singular vectors of the mean matrix at
  the last refresh, by falling singular value.
  """

  rank: int
  decomposition: _linalg.Decomposition
  linear = True
  takes_several = True

  @property
  def needs_whole(self) -> tuple[str, ...]:
    """The Gram matrix can be added up from parts of H, an SVD cannot."""
    return ('refresh',) if self.decomposition == 'svd' else ()

  def init(self, k: int, a: int, b: int, dtype: Any) -> jax.Array:
    """Before the first refresh any orthonormal basis will do."""
    del b
    return jnp.broadcast_to(jnp.eye(a, dtype=dtype), (k, a, a))

  def leading(self, basis: jax.Array) -> jax.Array:
    """The r leading directions, whose drift is observed, [k, a, r]."""
    return basis[:, :, : self.rank]

  def refresh(self, h: jax.Array, basis: jax.Array, key: jax.Array) -> Rounds:
    """Everything is sent, and the basis is that of its mean."""
    h_mean, h_sent, _ = yield from dense(h, basis, key)
    decompose = _linalg.left_singular_basis(self.decomposition)
    basis = yield Each(decompose, h_mean, divisible=True)
    return h_mean, h_sent, basis


def check_compressor(compressor: Any) -> None:
  """Raises unless this is an instance of a method."""
  if hasattr(compressor, 'update') and hasattr(compressor, 'init'):
    raise TypeError(
      'compressor must be a method such as gl.GreedyLore(rank=32), got an'
      ' optax transformation: pass the method that is inside it.'
    )
  for name in ('init', 'compress'):
    if isinstance(compressor, type) or not callable(
      getattr(compressor, name, None)
    ):
      raise TypeError(
        'compressor must be an instance such as gl.GreedyLore(rank=32), or a'
        f' list of (pattern, instance), got {compressor!r}.'
      )
  for name in ('update_interval', 'linear'):
    if not hasattr(compressor, name):
      raise TypeError(
        f'compressor must have an attribute {name!r} (see gl.Compressor), got'
        f' {compressor!r}.'
      )
  refresh = getattr(compressor, 'refresh', None)
  if compressor.update_interval is not None and not callable(refresh):
    raise TypeError(
      f'compressor has update_interval={compressor.update_interval!r}, so it'
      f' must have a method refresh (see gl.Compressor), got {compressor!r}.'
    )
  if getattr(compressor, '__hash__', None) is None:
    raise TypeError(
      'compressor must be hashable: make it a frozen dataclass, got'
      f' {compressor!r}.'
    )


def check_lazy_basis(compressor: Any) -> None:
  """Checks the settings that every method with a lazy basis has."""
  _checks.check_integer('rank', compressor.rank)
  _checks.check_integer('update_interval', compressor.update_interval)
  _checks.check_choice(
    'decomposition', compressor.decomposition, ('gram', 'svd')
  )
