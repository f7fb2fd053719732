"""What a greedy choice captures, against the share r / a that is proved."""

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from experiments.theory import feeding
from experiments.theory.study import Claim, Track, panels
import greedylore_jax as gl
from train.study import tables

NAME = 'contraction'
TITLE = 'The contraction of a greedy choice, with independent and shared probes'
_INDEPENDENT = 'independent'
Case = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Share:
  """Captured energy in units of (r / a) ||H||^2: at least 1 is the bound."""

  mean: float
  margin: float
  """Half of its 95 % confidence interval."""

  @classmethod
  def of(cls, captured: np.ndarray, rank: int, side: int) -> 'Share':
    """From shares of ||H||^2, [draws]."""
    shares = captured * side / rank
    margin = 1.96 * shares.std(ddof=1) / np.sqrt(len(shares))
    # Draws that are all equal differ by rounding.
    return cls(float(shares.mean()), float(max(margin, 1e-5)))

  @property
  def keeps(self) -> bool:
    """Whether nothing speaks against the bound."""
    return self.mean + self.margin >= 1

  def __str__(self) -> str:
    return f'{self.mean:.3f} ± {self.margin:.3f}'


@dataclasses.dataclass(frozen=True)
class Found:
  """What was captured, by case and probes."""

  side: int
  rank: int
  shares: dict[tuple[str, str | int], Share]
  worst: dict[str | int, tuple[Share, float]]
  """The lowest of the copies' cases for rank 1, with its c^2."""
  proved: dict[int, float]
  """For a count of shared probes in those cases, s / rho: `stable_rank`."""


def copies(a: int, b: int, low: int, energy: float) -> Case:
  """The counterexample: a - low equal rows, and `low` weak ones across.

  H has a - low rows e_0 and rows sqrt(energy) e_1 .. e_low, and the basis is
  that of the unit vectors. The equal rows always have equal scores and count
  as one draw, the weak ones are as many draws as there are of them.
  """
  h = np.zeros((a, b))
  h[: a - low, 0] = 1
  h[np.arange(a - low, a), np.arange(1, low + 1)] = np.sqrt(energy)
  return h, np.eye(a)


def cases(a: int, b: int) -> dict[str, Case]:
  """Matrices with a basis, by name.

  A basis is old (it has nothing to do with the matrix) or fresh, as a refresh
  with this matrix would leave it.
  """
  rng = np.random.default_rng(0)
  orthogonal = lambda n, m: np.linalg.qr(rng.normal(size=(n, m)))[0]
  old, random = orthogonal(a, a), rng.normal(size=(a, b))
  left, right = orthogonal(a, a), orthogonal(b, a)
  decaying = (left * 0.9 ** np.arange(a)) @ right.T
  return {
    'flat, old basis': (right.T, old),
    'random, old basis': (random, old),
    'random, fresh basis': (random, np.linalg.svd(random)[0]),
    'decaying, old basis': (decaying, old),
    'decaying, fresh basis': (decaying, left),
    'copies, c² = 0.3': copies(a, b, a // 4, 0.3),
    'copies, c² = 0.6': copies(a, b, a // 4, 0.6),
  }


def measure(
  *,
  a: int = 64,
  b: int = 96,
  rank: int = 4,
  probes: Sequence[int] = (1, 4, 16),
  more_probes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
  draws: int = 4000,
  track: Track = iter,
) -> Found:
  """All cases at one rank, then the counterexample at its worst.

  The search is over c^2, with a / 8 weak rows.
  """
  low = a // 8
  runs = [
    (rank, p, name, *case)
    for p, (name, case) in itertools.product(
      (_INDEPENDENT, *probes), cases(a, b).items()
    )
  ] + [
    (1, p, energy, *copies(a, b, low, energy))
    for p, energy in itertools.product(
      (_INDEPENDENT, *more_probes), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    )
  ]
  shares, worst = {}, {}
  for r, p, what, h, basis in track(runs):
    method = gl.GreedyLore(r, feeding.NEVER, p)
    share = Share.of(feeding.captured(method, h, basis, draws), r, a)
    if isinstance(what, str):
      shares[what, p] = share
    elif p not in worst or share.mean < worst[p][0].mean:
      worst[p] = share, what
  proved = {p: stable_rank(low + 1, p) / (low + 1) for p in more_probes}
  return Found(a, rank, shares, worst, proved)


def stable_rank(rho: int, probes: int, draws: int = 2000) -> float:
  """E ||V||_F^2 / ||V||_2^2, which is s, for Gaussian V, [rho, probes]."""
  v = np.random.default_rng(0).normal(size=(draws, rho, probes))
  squares = np.linalg.svd(v, compute_uv=False) ** 2
  return float(np.mean(squares.sum(-1) / squares[:, 0]))


def claims(found: Found) -> list[Claim]:
  """For independent probes the bound, for shared ones what is true."""
  lowest = lambda chosen: min(
    (x for key, x in found.shares.items() if chosen(*key)), key=lambda x: x.mean
  )
  independent = lowest(lambda _, p: p == _INDEPENDENT)
  fresh = lowest(lambda name, p: 'fresh' in name and p != _INDEPENDENT)
  old = lowest(lambda name, p: 'old' in name and p == 1)
  count = next(p for p in found.worst if p != _INDEPENDENT)
  broken, energy = found.worst[count]
  what = 'captured, of (r/a) ‖H‖²'
  rows = [
    (
      f'independent probes, lowest of all cases: {what}',
      'contraction with δ = r/a',
      'at least 1',
      independent,
      independent.keeps,
    ),
    (
      f'shared probes, fresh basis, lowest: {what}',
      'the same: scores are independent',
      'at least 1',
      fresh,
      fresh.keeps,
    ),
    (
      f'one shared probe, old basis, lowest: {what}',
      'no theorem',
      'need not be 1',
      old,
      True,
    ),
    (
      f'{count} shared probe, copies with c² = {energy}, r = 1: {what}',
      'counterexample',
      'below 1',
      broken,
      broken.mean + broken.margin < 1,
    ),
  ]
  for p, least in found.proved.items():
    share, energy = found.worst[p]
    row = (
      f'{p} shared, copies with the worst c² = {energy}, r = 1: {what}',
      'contraction with δ = (r/a) s/ρ',
      f'at least {least:.3f}',
      share,
      share.mean + share.margin >= least,
    )
    rows.append(row)
  return [Claim(*row[:3], str(row[3]), row[4]) for row in rows]


def _axes(found: Found) -> tuple[list[str], list[str | int]]:
  """The cases and the kinds of probes."""
  names, kinds = (dict.fromkeys(x) for x in zip(*found.shares, strict=True))
  return list(names), list(kinds)


def details(found: Found) -> str:
  """All cases, with those that break the bound in bold."""
  names, kinds = _axes(found)
  mark = lambda x: str(x) if x.keeps else f'**{x}**'
  return tables.table(
    [
      f'captured / ((r/a) ‖H‖²), r = {found.rank}',
      *(f'{p}' if p == _INDEPENDENT else f'{p} shared' for p in kinds),
    ],
    [[n, *(mark(found.shares[n, p]) for p in kinds)] for n in names],
  )


def draw(found: Found, path: str) -> None:
  """All cases on the left, the worst ones against the probes on the right."""
  names, kinds = _axes(found)
  counts = [p for p in found.worst if p != _INDEPENDENT]
  legends = 'upper left', 'lower right'
  shape = {'figsize': (11, 4.4), 'width_ratios': (3, 2)}
  with panels(path, legends, **shape) as (left, right):
    for i, p in enumerate(kinds):
      place = np.arange(len(names)) + 0.15 * (i - (len(kinds) - 1) / 2)
      color = f'C{i - 1}' if i else 'black'
      label = f'{p} shared' if i else f'{p} probes'
      shares = [found.shares[name, p] for name in names]
      _plot(left, place, shares, 'o', color=color, label=label)
    wrapped = [x.replace(', ', '\n') for x in names]
    left.set_xticks(range(len(names)), wrapped, fontsize=7)
    left.set(
      yscale='log',
      ylabel='captured energy / ((r/a) ‖H‖²)',
      title=f'a = {found.side}, r = {found.rank}',
    )
    worst = [found.worst[p][0] for p in counts]
    label = 'shared probes, worst c² found'
    _plot(right, counts, worst, 'o-', color='C0', label=label)
    proved = [found.proved[p] for p in counts]
    right.plot(counts, proved, 'k--', label='proved for shared probes: s / ρ')
    exact = found.worst[_INDEPENDENT][0]
    right.axhspan(
      exact.mean - exact.margin,
      exact.mean + exact.margin,
      color='gray',
      alpha=0.5,
      label='independent probes, worst c²',
    )
    right.set(
      xscale='log',
      yscale='log',
      xlabel='shared probes',
      title=f'copies, a = {found.side}, r = 1',
    )
    right.set_xticks(counts, [str(p) for p in counts])
    for ax, ticks in ((left, (0.7, 1, 2, 4, 8)), (right, (0.1, 0.2, 0.5, 1))):
      ax.axhline(1, color='black', lw=1, ls=':', label='bound r/a')
      ax.set_yticks(ticks, [f'{x:g}' for x in ticks])
      ax.minorticks_off()


def _plot(ax, place, shares: list[Share], style: str, **options) -> None:
  means, margins = [x.mean for x in shares], [x.margin for x in shares]
  ax.errorbar(place, means, margins, fmt=style, ms=4, capsize=3, **options)
