"""Linear speed-up: N workers need 1 / N of the steps."""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.theory.study import Claim, Track, panels
import greedylore_jax as gl
from train.study import tables

NAME = 'speedup'
TITLE = 'Steps to a given gradient norm against the number of workers'
_AXIS = 'workers'
_METHODS = {
  'dense': gl.Dense(),
  'GreedyLore': gl.GreedyLore(rank=4, update_interval=50),
  'range finder': gl.RangeFinder(rank=4),
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optimizer with the learning rate of one worker."""

  factory: Callable[[Any], optax.GradientTransformation]
  rate: float
  power: float
  """The rate of N workers is about rate * N^power: that of MSGD grows as the
  noise of the mean gradient falls, and Adam divides by that noise's root."""


_OPTIMIZERS = {
  'MSGD': Optimizer(lambda x: optax.sgd(x, momentum=0.9), 4.2e-5, 1.0),
  'Adam': Optimizer(optax.adam, 4e-3, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Problem:
  """A regression with ripples, smooth and not convex.

  f(W) = sum of phi(A W - Y) over its entries / n, [n, b], with phi(t) = t^2 / 2
  + 1.5 sin(t)^2, whose curvature is between -2 and 4. Each worker sees the
  gradient with Gaussian noise, so that E ||G_i - grad f||^2 = sigma^2.
  """

  inputs: jax.Array
  """A, [n, a]."""
  outputs: jax.Array
  """Y, [n, b]."""
  noise: float
  """sigma^2 / ||grad f||^2 at the start."""

  @classmethod
  def draw(
    cls, n: int = 64, a: int = 16, b: int = 24, noise: float = 256.0
  ) -> 'Problem':
    """With outputs so far away that descent crosses several ripples."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(n, a)) * 0.95 ** np.arange(a)
    outputs = inputs @ rng.normal(size=(a, b))
    cast = lambda x: jnp.asarray(x, jnp.float32)
    return cls(cast(inputs), cast(outputs), noise)

  def residuals(self, w: jax.Array) -> jax.Array:
    """A W - Y, [n, b]."""
    return self.inputs @ w - self.outputs

  def gradient(self, w: jax.Array) -> jax.Array:
    """Without noise, [a, b]."""
    t = self.residuals(w)
    return self.inputs.T @ (t + 1.5 * jnp.sin(2 * t)) / len(self.inputs)

  @property
  def shape(self) -> tuple[int, int]:
    """Of W."""
    return self.inputs.shape[1], self.outputs.shape[1]

  @property
  def start(self) -> jax.Array:
    """The first W."""
    return jnp.zeros(self.shape)

  @property
  def sigma(self) -> jax.Array:
    """Root of the variance of a worker's gradient."""
    first = jnp.sum(self.gradient(self.start) ** 2)
    return jnp.sqrt(self.noise * first)


def norms(
  problem: Problem,
  method: gl.Compressor,
  optimizer: Callable[[Any], optax.GradientTransformation],
  workers: int,
  steps: int,
) -> Callable[[Any, Any], jax.Array]:
  """A run on a number of simulated workers.

  Returns:
    From a learning rate and a key to ||grad f||^2 before each step, [steps].
  """
  average = gl.compress_gradients(method, _AXIS, min_compression_rate=0)

  @jax.jit
  def run(rate, key):
    behind = optimizer(rate)
    w = problem.start
    sent = gl.expand(average.init(w), workers)
    sent = sent._replace(error=jax.tree.map(lambda e: e[:, None], sent.error))
    specs = gl.state_partition_specs(sent, _AXIS)
    axes = jax.tree.map(lambda spec: 0 if spec else None, specs)
    update = jax.vmap(average.update, (0, axes), (None, axes), axis_name=_AXIS)

    def step(carry, t):
      w, sent, kept = carry
      gradient = problem.gradient(w)
      noise = jax.random.normal(
        jax.random.fold_in(key, t), (workers, *problem.shape)
      )
      scale = problem.sigma / np.sqrt(w.size)
      mean, sent = update(gradient[None] + scale * noise, sent)
      change, kept = behind.update(mean, kept, w)
      w = optax.apply_updates(w, change)
      return (w, sent, kept), jnp.sum(gradient**2)

    start = w, sent, behind.init(w)
    return jax.lax.scan(step, start, jnp.arange(steps))[1]

  return run


def steps_to(norms: np.ndarray, target: float) -> float:
  """First T with (1 / T) sum_{t < T} ||grad f||^2 <= target; inf if none."""
  means = np.cumsum(norms) / np.arange(1, len(norms) + 1)
  reached = np.flatnonzero(means <= target)
  return float(reached[0] + 1) if len(reached) else float('inf')


@dataclasses.dataclass(frozen=True)
class Found:
  """By optimizer and method: the steps for each number of workers."""

  workers: tuple[int, ...]
  target: float
  """Mean ||grad f||^2 to reach, over that of the start."""
  curved_down: float
  """Share of the entries with negative curvature at the start."""
  steps: dict[tuple[str, str], np.ndarray]
  """At the best learning rate: mean over the seeds, [workers]."""
  best: dict[tuple[str, str], np.ndarray]
  """Which of the learning rates that was, [workers]."""
  rates: tuple[float, ...]
  """Multiples of the optimizer's own."""


def measure(
  *,
  workers: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
  most_steps: int = 40_000,
  target: float = 0.15,
  rates: Sequence[float] = (0.7, 1.0, 1.4),
  seeds: int = 3,
  problem: Problem | None = None,
  optimizers: Iterable[str] = _OPTIMIZERS,
  methods: Iterable[str] = _METHODS,
  track: Track = iter,
) -> Found:
  """All methods and optimizers; N workers get at most most_steps / N steps."""
  problem = problem or Problem.draw()
  first = float(jnp.sum(problem.gradient(problem.start) ** 2))
  keys = [jax.random.key(seed) for seed in range(seeds)] * len(rates)
  needed = collections.defaultdict(list)
  for name, method, n in track(
    [*itertools.product(optimizers, methods, workers)]
  ):
    optimizer = _OPTIMIZERS[name]
    run = norms(
      problem, _METHODS[method], optimizer.factory, n, most_steps // n
    )
    own = optimizer.rate * n**optimizer.power * np.repeat(rates, seeds)
    steps = [
      steps_to(np.asarray(run(rate, key)) / first, target)
      for rate, key in zip(own, keys, strict=True)
    ]
    needed[name, method].append(
      np.mean(np.reshape(steps, (len(rates), seeds)), axis=1)
    )
  found = {key: np.min(rows, axis=1) for key, rows in needed.items()}
  best = {key: np.argmin(rows, axis=1) for key, rows in needed.items()}
  t = problem.residuals(problem.start)
  down = float(jnp.mean(3 * jnp.cos(2 * t) < -1))
  return Found(tuple(workers), target, down, found, best, tuple(rates))


def slope(workers: Sequence[int], steps: np.ndarray) -> float:
  """Of the straight line through log steps against log workers."""
  return float(np.polyfit(np.log(workers), np.log(steps), 1)[0])


def claims(found: Found) -> list[Claim]:
  """The slopes, and what compression costs in steps at both ends."""
  first, last = found.workers[0], found.workers[-1]
  slopes, costs = [], []
  for (optimizer, method), steps in found.steps.items():
    fitted = slope(found.workers, steps)
    claim = Claim(
      f'{optimizer}, {method}: slope of log steps against log N',
      'rate σ / √(N T) + 1 / T',
      '-1 while σ / √(N T) leads',
      f'{fitted:.3f}; {steps[0]:,.0f} steps at N = {first},'
      f' {steps[-1]:,.0f} at {last}',
      bool(abs(fitted + 1) < 0.1),
    )
    slopes.append(claim)
    if method == 'dense':
      continue
    over = steps / found.steps[optimizer, 'dense'] - 1
    claim = Claim(
      f'{optimizer}, {method}: steps over those of dense',
      'compression is in the 1 / T part only',
      'vanishes where steps are many',
      f'{over[0]:+.1%} at N = {first}, {over[-1]:+.1%} at {last}',
      bool(abs(over[0]) < 0.05),
    )
    costs.append(claim)
  return slopes + costs


def details(found: Found) -> str:
  """All steps, with the best multiple of the learning rate."""
  rows = []
  for key, steps in found.steps.items():
    pairs = zip(steps, found.best[key], strict=True)
    cells = [f'{x:,.0f} ({found.rates[i]:g})' for x, i in pairs]
    rows.append([', '.join(key), *cells])
  columns = ['steps (rate)', *(f'N = {n}' for n in found.workers)]
  return tables.table(columns, rows)


def draw(found: Found, path: str) -> None:
  """An optimizer per panel."""
  workers = np.array(found.workers)
  with panels(path, sharey=True) as axes:
    for ax, name in zip(axes, _OPTIMIZERS, strict=True):
      for method, color, marker in zip(
        _METHODS, ('black', 'C3', 'C0'), 'os^', strict=True
      ):
        steps = found.steps[name, method]
        label = f'{method}, slope {slope(workers, steps):.2f}'
        style = {'color': color, 'marker': marker, 'ms': 5, 'lw': 1}
        ax.loglog(workers, steps, alpha=0.8, label=label, **style)
      ideal = found.steps[name, 'dense'][0] * workers[0] / workers
      ax.loglog(workers, ideal, 'k:', label='1 / N')
      ax.set(xlabel='workers N', title=name)
      ax.set_xticks(workers, map(str, workers))
      ax.minorticks_off()
    axes[0].set_ylabel(f'steps to mean ‖∇f‖² = {found.target:g} of its start')
