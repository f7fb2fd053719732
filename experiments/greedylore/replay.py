"""`python -m experiments.greedylore.replay`: how old is what a method sends?

Records the gradients of dense training, compresses them by each method with
error feedback, and writes replay.md and replay.png next to this file.

An output O = P P^T H consists of gradients of this and of earlier steps. With
O_s the part that comes from step s, the age of what is sent in step t is
sum_s (t - s) <O_s, O> / |O|^2.
"""

from collections.abc import Callable
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

from experiments.greedylore import informed
import greedylore_jax as gl
from train import tasks
from train.config import command_line
from train.run import optimizer

matplotlib.use('Agg')
import matplotlib.pyplot as plt

_FOLDER = pathlib.Path(__file__).parent
_DENSE = (
  'configs/studies/family.py --compression.method dense --mesh.replica 1'
  ' --batch_size 4 --steps 500'
)
_BEGIN, _END, _SETTLED = 100, 260, 60
_BUDGETS = 10, 4
_NEVER = 10**6

Method = Callable[[int], gl.Compressor]


class Kind(NamedTuple):
  """A method of the comparison.

  Attributes:
    name: in the table and in the figure.
    of_rank: returns the compressor of a rank.
    is_informed: whether it knows something for which no bytes are counted.
    sized_like: the rank is that of this method; None is its own.
  """

  name: str
  of_rank: Method
  is_informed: bool = False
  sized_like: Method | None = None


def _informed(**known: bool) -> Method:
  return lambda r: informed.Informed(r, _NEVER, **known)


KINDS = [
  Kind('GreedyLore, refresh every 100', lambda r: gl.GreedyLore(r, 100)),
  Kind('every 20', lambda r: gl.GreedyLore(r, 20)),
  Kind(
    'every 100, exact choice',
    lambda r: informed.Informed(r, 100, knows_energies=True),
    True,
  ),
  Kind('basis of the last step', _informed(knows_last_step=True), True),
  Kind(
    'basis of the last step, exact choice',
    _informed(knows_last_step=True, knows_energies=True),
    True,
  ),
  Kind(
    'basis of 2 r by a sketch, every 2',
    lambda r: gl.GreedyLore(r, 2, basis_size=2 * r),
  ),
  Kind('basis of past sketches', gl.PastSketches),
  Kind('range finder', gl.RangeFinder),
  Kind('PowerSGD', gl.PowerSGD),
  Kind("best directions, PowerSGD's rank", informed.Best, True, gl.PowerSGD),
]


class Measured(NamedTuple):
  """Means over the settled steps, and over matrices.

  Attributes:
    age: of what is sent, in steps.
    error: its norm over that of the gradient.
    alignment: the cosine between moving averages (0.9) of outputs and of
      gradients.
  """

  age: float
  error: float
  alignment: float


def main() -> None:
  """Records, replays and writes."""
  gradients = record()
  with jax.enable_x64(True):
    found = {
      budget: {kind.name: replay(gradients, kind, budget) for kind in KINDS}
      for budget in _BUDGETS
    }
  (_FOLDER / 'replay.md').write_text(table(found), encoding='utf-8')
  draw(found)


def table(found: dict[int, dict[str, tuple[str, Measured]]]) -> str:
  """A table for each budget."""
  lines = []
  for budget, of_kind in found.items():
    lines += [
      f'## {budget} times fewer bytes',
      '',
      '| method | ranks | age in steps | error | alignment |',
      '|---|---|---|---|---|',
    ]
    for name, (ranks, x) in of_kind.items():
      lines.append(
        f'| {name} | {ranks} | {x.age:.2f} | {x.error:.2f} |'
        f' {x.alignment:.3f} |'
      )
    lines.append('')
  return '\n'.join(lines)


def record() -> dict[str, np.ndarray]:
  """The gradients of two layers, embedding and head, [steps, *shape] each."""
  config, _ = command_line.parse(_DENSE.split(), __name__)
  task = tasks.load(config)
  tx, _ = optimizer.build(config, None, task)
  params = task.start(task.init(config.seed))
  state = tx.init(params)
  batches = task.train(config.batch_size)

  @jax.jit
  def step(params: Any, state: Any, batch: Any) -> Any:
    grads = jax.grad(task.loss)(params, batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, grads

  kept = []
  for i in range(_END):
    params, state, grads = step(params, state, next(batches))
    if i >= _BEGIN:
      leaves = jax.tree_util.tree_leaves_with_path(grads)
      kept.append(
        {
          jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)
          for path, x in leaves
          if x.ndim == 2
        }
      )
    if i % 50 == 49:
      print(f'recorded {i + 1} of {_END} steps', flush=True)
  names = [x for x in kept[0] if not x.startswith(('blocks/1', 'blocks/3'))]
  return {x: np.stack([each[x] for each in kept]) for x in names}


def replay(
  gradients: dict[str, np.ndarray], kind: Kind, budget: float
) -> tuple[str, Measured]:
  """The ranks of a method within a budget, by shape, and what it sends."""
  short = {name: _short(x).astype(np.float64) for name, x in gradients.items()}
  shapes = sorted({x.shape[1:] for x in short.values()})
  sizing = kind.sized_like or kind.of_rank
  ranks = {shape: _rank(sizing, shape, budget) for shape in shapes}
  label = lambda shape: f'{shape[0]} x {shape[1]}:'
  tx = gl.compress_gradients(
    [(f'^{label(x)}', kind.of_rank(ranks[x])) for x in shapes],
    None,
    min_compression_rate=0,
  )
  named = {f'{label(x.shape[1:])}{name}': x for name, x in short.items()}
  measured = measure(tx, named)
  said = ' / '.join(str(ranks[x]) for x in shapes)
  print(budget, kind.name, said, measured, flush=True)
  return said, measured


def _short(x: Any) -> Any:
  """With the short side as rows."""
  return x if x.shape[1] <= x.shape[2] else x.transpose(0, 2, 1)


def _rank(of_rank: Method, shape: tuple[int, int], budget: float) -> int:
  """The largest rank that stays within the budget."""
  params = {'w': jax.ShapeDtypeStruct(shape, jnp.float32)}
  best = 1
  for rank in range(1, min(shape) + 1):
    plan = gl.plan(of_rank(rank), params, min_compression_rate=0)
    if plan.dense_bytes / plan.bytes_per_step < budget:
      break
    best = rank
  return best


def measure(
  tx: optax.GradientTransformation, gradients: dict[str, np.ndarray]
) -> Measured:
  """Compresses the gradients, [steps, a, b] with a <= b, one by one."""
  zeros = {name: jnp.zeros(x.shape[1:]) for name, x in gradients.items()}

  def step(carry: Any, now: Any) -> Any:
    t, grads = now
    state, times, sent_average, average = carry
    output, state = tx.update(grads, state)
    # The error, with each part multiplied by the number of its step.
    times = jax.tree.map(lambda x, g: x + t * g, times, grads)
    sent_times = jax.tree.map(_projected, output, times)
    times = jax.tree.map(jnp.subtract, times, sent_times)
    mix = lambda old, new: 0.9 * old + new
    sent_average = jax.tree.map(mix, sent_average, output)
    average = jax.tree.map(mix, average, grads)
    error = optax.tree.get(state, 'error')
    of_leaf = lambda name: (
      t
      - _dot(sent_times[name], output[name]) / _dot(output[name], output[name]),
      _norm(error[name]) / _norm(grads[name]),
      _dot(sent_average[name], average[name])
      / (_norm(sent_average[name]) * _norm(average[name])),
    )
    each = jnp.array([of_leaf(name) for name in grads])
    return (state, times, sent_average, average), each.mean(axis=0)

  count = len(next(iter(gradients.values())))
  start = tx.init(zeros), zeros, zeros, zeros
  numbers = jnp.arange(count, dtype=float)
  _, rows = jax.jit(lambda: jax.lax.scan(step, start, (numbers, gradients)))()
  return Measured(*np.asarray(rows[_SETTLED:].mean(axis=0)).tolist())


def _projected(output: Any, x: Any) -> Any:
  """P P^T X, where P spans the columns of the output."""
  values, vectors = jnp.linalg.eigh(output @ output.T)
  p = jnp.where(values > 1e-13 * values[-1], vectors, 0)
  return p @ (p.T @ x)


def _dot(x: Any, y: Any) -> Any:
  return jnp.sum(x * y)


def _norm(x: Any) -> Any:
  return jnp.sqrt(jnp.sum(x * x))


def draw(found: dict[int, dict[str, tuple[str, Measured]]]) -> None:
  """A bar for each method and budget."""
  figure, axes = plt.subplots(
    1, len(found), figsize=(11, 4.2), sharey=True, layout='constrained'
  )
  names = [kind.name for kind in KINDS]
  for axis, (budget, of_kind) in zip(axes, found.items(), strict=True):
    ages = [of_kind[name][1].age for name in names]
    for i, age in enumerate(ages):
      axis.barh(i, age, color='#9ecae1' if KINDS[i].is_informed else '#2171b5')
      axis.text(age, i, f'  {of_kind[names[i]][1].alignment:.2f}', va='center')
    axis.set_title(f'{budget} times fewer bytes')
    axis.set_xlabel('age of what is sent, in steps')
    axis.set_xlim(0, max(ages) * 1.15)
    axis.spines[['top', 'right']].set_visible(False)
  axes[0].set_yticks(range(len(names)), names)
  axes[0].invert_yaxis()
  figure.suptitle(
    'Light bars: with knowledge that costs no bytes here. Numbers: alignment'
    ' with the gradients'
  )
  figure.savefig(_FOLDER / 'replay.png', dpi=150)


if __name__ == '__main__':
  main()
