"""A fixed projector against a chosen one: Proposition 1's counterexample."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.theory import feeding
from experiments.theory.study import Claim, Track, panels
import greedylore_jax as gl
from train.study import tables

NAME = 'projector'
TITLE = 'A projector that is held fixed, and one that is chosen every step'
_FIXED, _GREEDY = 'fixed (lazy SVD)', 'GreedyLore (semi-lazy)'


@dataclasses.dataclass(frozen=True)
class Found:
  """Of each method, by name."""

  rank: int
  side: int
  left: float
  """||G - P P^T G|| / ||G|| with P of the only refresh."""
  errors: dict[str, np.ndarray]
  """||E|| / ||G|| after each step of a constant gradient, [steps]."""
  losses: dict[str, np.ndarray]
  """||X - X*||^2 / ||X*||^2 after each step of descent, [steps + 1]."""


def measure(
  *,
  a: int = 64,
  b: int = 96,
  rank: int = 16,
  steps: int = 1000,
  track: Track = iter,
) -> Found:
  """One refresh, in the first step, then never again.

  G is Gaussian, the target X* of the descent decays: its singular values are
  0.9^j.
  """
  rng = np.random.default_rng(0)
  g = rng.normal(size=(a, b))
  g /= np.linalg.norm(g)
  u, _, vt = np.linalg.svd(rng.normal(size=(a, b)), full_matrices=False)
  methods = {
    'dense': gl.Dense(),
    _FIXED: gl.FixedSubspace(rank, feeding.NEVER),
    'random directions': gl.RandomSubspace(rank, feeding.NEVER),
    _GREEDY: gl.GreedyLore(rank, feeding.NEVER),
  }
  constant = jnp.asarray(g, jnp.float32)
  target = u * 0.9 ** np.arange(a) @ vt
  errors, losses = {}, {}
  for name in track([*methods]):
    method = methods[name]
    losses[name] = feeding.descend(method, target, rate=0.1, steps=300)
    if name != 'dense':
      norms = feeding.errors(method, lambda t: constant, steps + 1)
      errors[name] = norms[1:]  # After the refresh.
  energies = np.linalg.svd(g, compute_uv=False) ** 2
  left = float(np.sqrt(energies[rank:].sum()))
  return Found(rank, a, left, errors, losses)


def claims(found: Found) -> list[Claim]:
  """Growth without bound, and where it ends for the others."""
  fixed, greedy = found.errors[_FIXED], found.errors[_GREEDY]
  steps = len(fixed)
  share = found.rank / found.side
  bound = np.sqrt(1 - share) / (1 - np.sqrt(1 - share))
  linear = np.abs(fixed / (found.left * np.arange(1, steps + 1)) - 1).max()
  losses = {name: x[-1] for name, x in found.losses.items()}
  descent = lambda name: f'{losses[name]:.1e}'
  return [
    Claim(
      f'fixed projector: error after {steps:,} steps of a constant G',
      'Proposition 1',
      f't ‖G - PPᵀG‖ = {found.left * steps:,.1f} ‖G‖',
      f'{fixed[-1]:,.1f} ‖G‖, never off by more than {linear:.1%}',
      bool(linear < 0.01),
    ),
    Claim(
      'semi-lazy: largest error in the same steps',
      'contraction with δ = r/a',
      f'below √(1-δ) / (1-√(1-δ)) = {bound:.2f} ‖G‖',
      f'{greedy.max():.2f} ‖G‖; {greedy[steps // 2 :].mean():.2f} on'
      f' average in the second half, {greedy[: steps // 2].mean():.2f} in'
      ' the first',
      bool(greedy.max() < bound),
    ),
    Claim(
      'descent on ‖X - X*‖², 300 steps: what is left of the loss',
      'Proposition 1',
      'fixed: stays above 0; semi-lazy: falls to 0 as dense does',
      f'fixed {descent(_FIXED)}, semi-lazy {descent(_GREEDY)}, dense'
      f' {descent("dense")}',
      losses[_FIXED] > 1e-3 > 1e-9 > losses[_GREEDY],
    ),
  ]


def details(found: Found) -> str:
  """The errors at some steps."""
  last = len(found.errors[_FIXED])
  steps = [x for x in (1, 10, 100, 1000) if x <= last]
  rows = [
    [name, *(f'{errors[x - 1]:.2f}' for x in steps)]
    for name, errors in found.errors.items()
  ]
  return tables.table(['‖E‖ / ‖G‖ after steps', *map(str, steps)], rows)


def draw(found: Found, path: str) -> None:
  """Errors on the left, losses of the descent on the right."""
  colors = dict(zip(found.losses, ('black', 'C1', 'C2', 'C3'), strict=True))
  with panels(path) as (left, right):
    for name, norms in found.errors.items():
      steps = np.arange(1, len(norms) + 1)
      left.loglog(steps, norms, color=colors[name], label=name)
    left.loglog(steps, found.left * steps, 'k:', label='t ‖G - PPᵀG‖ / ‖G‖')
    left.set(
      xlabel='steps since the refresh',
      ylabel='‖E‖ / ‖G‖',
      title='constant gradient',
    )
    for name, losses in found.losses.items():
      right.semilogy(losses, color=colors[name], label=name)
    right.set(
      xlabel='step',
      ylabel='‖X - X*‖² / ‖X*‖²',
      ylim=(1e-12, 3),
      title='gradient descent, rate 0.1',
    )
