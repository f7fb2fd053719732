"""How large the error becomes: with the interval, and with the rank."""

from collections.abc import Sequence
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.theory import feeding
from experiments.theory.study import Claim, Track, panels
import greedylore_jax as gl
from train.study import tables

NAME = 'growth'
TITLE = 'The error against interval and rank'
_METHODS = {
  'fixed (lazy SVD)': gl.FixedSubspace,
  'GreedyLore, 4 shared probes': gl.GreedyLore,
  'GreedyLore, independent probes': lambda rank, interval: gl.GreedyLore(
    rank, interval, 'independent'
  ),
}
_FIXED, _SHARED, _INDEPENDENT = _METHODS


@dataclasses.dataclass(frozen=True)
class Found:
  """Errors in units of the gradients' root mean square norm."""

  side: int
  ranks: tuple[int, ...]
  intervals: tuple[int, ...]
  peaks: dict[tuple[str, int, int], float]
  """Largest ||E||, by method, rank and interval."""
  typical: dict[tuple[str, int], float]
  """Root mean square ||E|| at the longest interval, by method and rank."""


def measure(
  *,
  a: int = 32,
  b: int = 48,
  ranks: Sequence[int] = (2, 4, 8, 16),
  intervals: Sequence[int] = (10, 30, 100, 300, 1000),
  track: Track = iter,
) -> Found:
  """Gradients that turn slowly, with noise, over two of the longest intervals.

  G_t = (cos(w t) A + sin(w t) B + Z_t / 2) / sqrt(1.25): A and B of norm 1 with
  singular values 0.9^j, Z_t Gaussian with mean square norm 1, w one turn in 8
  intervals.
  """
  rng = np.random.default_rng(0)
  first, second = (_decaying(rng, a, b) for _ in range(2))
  speed = 2 * np.pi / (8 * max(intervals))

  def gradient_at(t):
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), t), (a, b))
    signal = jnp.cos(speed * t) * first + jnp.sin(speed * t) * second
    return (signal + 0.5 * noise / np.sqrt(a * b)) / np.sqrt(1.25)

  peaks, typical = {}, {}
  long = max(intervals)
  for name, rank, interval in track(
    [
      (name, rank, interval)
      for name, rank, interval in itertools.product(_METHODS, ranks, intervals)
      if name != _INDEPENDENT or interval == long
    ]
  ):
    method = _METHODS[name](rank, interval)
    norms = feeding.errors(method, gradient_at, 2 * long)
    peaks[name, rank, interval] = float(norms.max())
    if interval == long:
      typical[name, rank] = float(np.sqrt(np.mean(norms**2)))
  return Found(a, tuple(ranks), tuple(intervals), peaks, typical)


def _decaying(rng, a, b):
  """[a, b] of norm 1 with singular values 0.9^j."""
  u, _, vt = np.linalg.svd(rng.normal(size=(a, b)), full_matrices=False)
  s = 0.9 ** np.arange(a)
  return jnp.asarray(u * (s / np.linalg.norm(s)) @ vt, jnp.float32)


def bound(rank: int, side: int) -> float:
  """sqrt(1 - d) / (1 - sqrt(1 - d)) with d = r / a, which is below 2 a / r."""
  kept = np.sqrt(1 - rank / side)
  return float(kept / (1 - kept))


def claims(found: Found) -> list[Claim]:
  """Linear growth for the fixed projector, a ceiling for the others."""
  short, long = found.intervals[-3], found.intervals[-1]
  ends = lambda name, rank: [found.peaks[name, rank, x] for x in (short, long)]
  lines = []
  for rank in found.ranks:
    low, high = ends(_FIXED, rank)
    slope = np.log(high / low) / np.log(long / short)
    claim = Claim(
      f'fixed, r = {rank}: peak error, intervals {short} to {long}',
      'Proposition 1',
      'what stays adds up with exponent 1, noise with 1/2',
      f'{low:.1f} to {high:.1f}, exponent {slope:.2f}',
      bool(0.5 < slope < 1.1),
    )
    lines.append(claim)
  for rank in found.ranks:
    low, high = ends(_SHARED, rank)
    claim = Claim(
      f'GreedyLore, 4 shared probes, r = {rank}: the same',
      'contraction',
      'does not grow',
      f'{low:.1f} to {high:.1f}',
      bool(high < 1.3 * low),
    )
    lines.append(claim)
  for name, rank in itertools.product((_INDEPENDENT, _SHARED), found.ranks):
    value, limit = found.typical[name, rank], bound(rank, found.side)
    claim = Claim(
      f'{name}, r = {rank}: rms error at interval {long}',
      'contraction with δ = r/a',
      f'below √(1-δ) / (1-√(1-δ)) = {limit:.1f}',
      f'{value:.2f}',
      bool(value < limit),
    )
    lines.append(claim)
  return lines


def details(found: Found) -> str:
  """The largest errors by interval."""
  rows = []
  for name, rank in itertools.product((_FIXED, _SHARED), found.ranks):
    peaks = [found.peaks[name, rank, x] for x in found.intervals]
    rows.append([name, rank, *(f'{x:.1f}' for x in peaks)])
  intervals = [f'{x} steps' for x in found.intervals]
  return tables.table(['largest ‖E‖ / rms ‖G‖', 'r', *intervals], rows)


def draw(found: Found, path: str) -> None:
  """Against the interval on the left, against a / r on the right."""
  with panels(path) as (left, right):
    for i, rank in enumerate(found.ranks):
      for name, style in ((_FIXED, 's--'), (_SHARED, 'o-')):
        peaks = [found.peaks[name, rank, x] for x in found.intervals]
        label = f'r = {rank}' if name == _SHARED else None
        color = f'C{i}'
        left.loglog(
          found.intervals, peaks, style, ms=4, color=color, label=label
        )
    left.plot([], [], 'ks--', ms=4, label='fixed (lazy SVD)')
    left.plot([], [], 'ko-', ms=4, label='GreedyLore, 4 probes')
    left.set(
      xlabel='update interval, steps',
      ylabel='largest ‖E‖ / rms ‖G‖',
      title=f'gradients that turn, a = {found.side}',
    )
    shrink = [found.side / rank for rank in found.ranks]
    for i, name in enumerate((_SHARED, _INDEPENDENT), start=4):
      typical = [found.typical[name, r] for r in found.ranks]
      right.loglog(shrink, typical, 'o-', ms=4, color=f'C{i}', label=name)
    limits = [bound(r, found.side) for r in found.ranks]
    label = '√(1-δ) / (1-√(1-δ)), δ = r/a'
    right.loglog(shrink, limits, 'k:', label=label)
    right.set(
      xlabel='a / r',
      ylabel='rms ‖E‖ / rms ‖G‖',
      title=f'interval {found.intervals[-1]}',
    )
    right.set_xticks(shrink, [f'{x:g}' for x in shrink])
    right.minorticks_off()
