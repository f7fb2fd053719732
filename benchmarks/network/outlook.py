"""Predicts which method a link needs, for 60M to 70B parameters.

`python -m benchmarks.network.outlook` draws `gl.predict` into OUTLOOK.png next
to this file and writes experiments/outlook/table.md; in the same table,
predictions stand beside what `benchmarks.network.links` has measured. Nothing
is measured here: the constants below say how long the step of a worker takes.
"""

from collections.abc import Iterable, Iterator
import functools
import json
import pathlib
import statistics
from typing import Any, NamedTuple

import jax
from matplotlib import figure
import matplotlib.colors
import matplotlib.patches
import numpy as np

from benchmarks.network import hosts, links_ours, links_report
import greedylore_jax as gl
from train import tasks
from train.config.subject import Model
from train.models import llama, llama_rules
from train.study import budget, tables

_FIGURE = pathlib.Path(__file__).with_name('OUTLOOK.png')
_STUDY = pathlib.Path('experiments/outlook')
_MEASURED = pathlib.Path('experiments/links/results.jsonl')
_VOCAB = 32_000
# Of a worker: operations per second, six per parameter and token.
_FLOPS = 4e14
_OVERHEAD = 0.03  # Of compressing, as a share of a step.
_HEADERS = 0.95  # What they leave of a link's rate.
# The share of a step with which a dense all-reduce can overlap: its backward
# pass.
_BACKWARD = 2 / 3
_ENOUGH = 0.9
_GBITS = np.geomspace(1e-2, 400, 180)
_MODELS = {
  '60M': Model(width=512, layers=8, heads=8, feed_forward=1376),
  '350M': Model(width=1024, layers=24, heads=16, feed_forward=2736),
  '1.3B': Model(width=2048, layers=24, heads=32, feed_forward=5461),
  '7B': Model(width=4096, layers=32, heads=32, feed_forward=11008),
  '70B': Model(width=8192, layers=80, heads=64, feed_forward=28672),
}


class Method(NamedTuple):
  """A way to send; `rank` is a share of the model's width."""

  name: str
  bits: int | None = None
  every: int = 1
  rank: float | None = None


# The less a method sends, the later it comes.
METHODS = (
  Method('dense'),
  Method('PowerSGD int8, r = d / 6', 8, rank=1 / 6),
  Method('4 bits, every 4 steps', 4, 4),
  Method('2 bits, every 10 steps', 2, 10),
  Method('2 bits, every 30 steps', 2, 30),
  Method('2 bits, every 100 steps', 2, 100),
  Method('PowerSGD int4, r = d / 6, every 100 steps', 4, 100, 1 / 6),
)


class Place(NamedTuple):
  """Workers, seconds until a message begins to arrive, a worker's batch."""

  workers: int
  latency: float
  tokens: int

  def __str__(self) -> str:
    unit = 1e-3 if self.latency >= 1e-3 else 1e-6
    name = 'ms' if unit == 1e-3 else 'us'
    return (
      f'{self.workers:,} workers of {self.tokens:,} tokens,'
      f' {self.latency / unit:g} {name}'
    )


# In a data center, and between sites, where workers take larger batches.
_SMALL, _LARGE = 16_384, 131_072
_PLACES = (
  Place(64, 5e-6, _SMALL),
  Place(4096, 5e-6, _SMALL),
  Place(8, 0.05, _LARGE),
  Place(64, 0.05, _LARGE),
)


def main() -> None:
  """Draws the figure and writes the table."""
  found = {place: shares(place) for place in _PLACES}
  _draw(found)
  text = [
    '# Outlook\n',
    'Written by `python -m benchmarks.network.outlook`; README.md explains'
    ' it.\n',
    *(line for x in found.items() for line in _table(*x)),
    *_check(),
  ]
  (_STUDY / 'table.md').write_text('\n'.join(text), encoding='utf-8')
  print(f'wrote {_STUDY / "table.md"} and {_FIGURE}')


def shares(place: Place) -> np.ndarray:
  """Of the time spent computing: [method, model, bandwidth]."""
  return np.array(
    [
      [share_computing(method, name, place, _GBITS) for name in _MODELS]
      for method in METHODS
    ]
  )


def share_computing(
  method: Method, name: str, place: Place, gbits: Iterable[float]
) -> list[float]:
  """Of the time, on each of these links; `name` is that of a model."""
  shapes = _shapes(name)
  count = sum(x.size for x in jax.tree.leaves(shapes))
  compute = 6 * count * place.tokens / _FLOPS
  plan = _plan(method, name, place.workers)
  overhead = {
    x: 0.0 if x == 'local' or method.bits is None else _OVERHEAD * compute
    for x in plan.lasting_phases()
  }
  found = []
  for rate in gbits:
    seconds = gl.predict(
      plan,
      bandwidth=_HEADERS * 1.25e8 * rate,
      latency=place.latency,
      compute_seconds=compute,
      overhead_seconds=overhead,
    ).average
    if method.bits is None:
      seconds = max(seconds - _BACKWARD * compute, compute)
    found.append(compute / seconds)
  return found


@functools.cache
def _shapes(name: str) -> Any:
  return jax.eval_shape(lambda: llama.init(_MODELS[name], _VOCAB, 0))


@functools.cache
def _plan(method: Method, name: str, workers: int) -> gl.Plan:
  shapes, model = _shapes(name), _MODELS[name]
  options: dict[str, Any] = {}
  compressor: gl.Compressor = gl.Dense()
  if method.rank:
    compressor = gl.PowerSGD(round(method.rank * model.width))
    options['factor_dtype'] = f'int{method.bits}'
  elif method.bits:
    compressor = gl.Quantize(method.bits)
  if method.every > 1:
    options['every'] = method.every
  return gl.plan(
    compressor,
    shapes,
    num_workers=workers,
    weight_dimension_numbers=llama_rules.matrix_dimension_numbers(
      shapes, embeddings=True
    ),
    **options,
  )


def _draw(found: dict[Place, np.ndarray]) -> None:
  """For each place the first method with which a link is fast enough."""
  drawn = figure.Figure(figsize=(11, 6.4), layout='constrained')
  axes = drawn.subplots(2, 2, sharex=True, sharey=True)
  colors = ['#d9d9d9', *(f'C{i}' for i in range(len(METHODS) - 1))]
  for ax, (place, values) in zip(axes.flat, found.items(), strict=True):
    for row in range(len(_MODELS)):
      enough = values[:, row] >= _ENOUGH
      first = np.ma.masked_where(~enough.any(0), enough.argmax(0))
      ax.pcolormesh(
        _GBITS,
        [row - 0.4, row + 0.4],
        first[None, :-1],
        cmap=matplotlib.colors.ListedColormap(colors),
        vmin=-0.5,
        vmax=len(colors) - 0.5,
      )
    ax.set(title=str(place), xscale='log', xlim=(_GBITS[0], _GBITS[-1]))
    ax.set_xticks(
      [1e-2, 0.1, 1, 10, 100], ['10 Mbit/s', '100', '1 Gbit/s', '10', '100']
    )
    ax.set_yticks(range(len(_MODELS)), list(_MODELS))
    ax.set_ylim(-0.6, len(_MODELS) - 0.4)
    ax.minorticks_off()
    ax.spines[['top', 'right']].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis='x', alpha=0.4)
  drawn.legend(
    handles=[
      matplotlib.patches.Patch(color=color, label=method.name)
      for color, method in zip(colors, METHODS, strict=True)
    ],
    loc='outside lower center',
    ncols=4,
    frameon=False,
  )
  for ax in axes[:, 0]:
    ax.set_ylabel('parameters')
  for ax in axes[-1]:
    ax.set_xlabel("a worker's link")
  drawn.suptitle(
    'What has to be sent so that workers compute'
    f' {_ENOUGH:.0%} of the time (white: nothing here is enough)'
  )
  drawn.savefig(_FIGURE, dpi=120)


def _table(place: Place, values: np.ndarray) -> Iterator[str]:
  """The slowest link that is fast enough, by method and model."""
  yield (
    f'\n{place}: the slowest link with which workers compute {_ENOUGH:.0%} of'
    ' the time.\n'
  )
  rows = [
    [method.name, *(_slowest(line >= _ENOUGH) for line in of_method)]
    for method, of_method in zip(METHODS, values, strict=True)
  ]
  yield tables.table(['', *_MODELS], rows)


def _slowest(enough: np.ndarray) -> str:
  if not enough.any():
    return 'none'
  gbits = float(_GBITS[enough.argmax()])
  if gbits >= 1:
    return f'{gbits:.0f} Gbit/s' if gbits >= 10 else f'{gbits:.1f} Gbit/s'
  return f'{1e3 * gbits:.0f} Mbit/s'


def _check() -> Iterator[str]:
  """Measured over predicted seconds of a step, by method and link.

  The predictions know the step of a worker alone on each link, the bytes of the
  plan, and what the method takes beyond that at 1 Gbit/s without delay.
  """
  lines = [
    json.loads(x) for x in _MEASURED.read_text(encoding='utf-8').splitlines()
  ]
  measured: dict[tuple[str, int, str], list[float]] = {}
  for x in lines:
    key = x['method'], float(x['milliseconds']), x['rate']
    measured.setdefault(key, []).append(x['seconds'])
  seconds = {key: statistics.median(x) for key, x in measured.items()}
  places = sorted(
    {key[1:] for key in seconds},
    key=lambda x: (-hosts.bits_per_second(x[1]), x[0]),
  )
  fastest = places[0]
  task = tasks.load(links_ours.config_of('alone', 2))
  rows, ratios = [], []
  for method in links_ours.METHODS:
    if method == 'alone' or (method, *fastest) not in seconds:
      continue
    plan = budget.plan(links_ours.config_of(method, 2), task)

    def predicted(place: Any, overhead: float, plan: gl.Plan = plan) -> float:
      milliseconds, rate = place
      return gl.predict(
        plan,
        bandwidth=_HEADERS * hosts.bits_per_second(rate) / 8,
        latency=milliseconds / 1e3,
        compute_seconds=seconds['alone', *place] + overhead,
      ).average

    beyond = seconds[method, *fastest] - predicted(fastest, 0.0)
    row = [links_report.NAMES[method]]
    for place in places[1:]:
      if (method, *place) in seconds:
        expected = predicted(place, max(beyond, 0.0))
        ratios.append(seconds[method, *place] / expected)
        row.append(f'{ratios[-1]:.2f}')
      else:
        row.append('')
    rows.append(row)
  yield (
    '\nMeasured over predicted seconds of a step, 2 hosts, by'
    f' {_MEASURED}: the median is {statistics.median(ratios):.2f}, all are'
    f' {min(ratios):.2f} to {max(ratios):.2f}.\n'
  )
  titles = [f'{rate}, {ms:g} ms' for ms, rate in places[1:]]
  yield tables.table(['', *titles], rows)


if __name__ == '__main__':
  main()
