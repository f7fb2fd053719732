"""Predicts when compression pays: 8 to 4,096 workers at 1 to 400 Gbit/s.

`python -m benchmarks.network.outlook` plots `gl.predict` for a LLaMA of 1B
parameters into OUTLOOK.png next to this file. Nothing is measured: the
constants below say how long the step of a worker takes.
"""

import pathlib

import jax
from matplotlib import figure
import numpy as np

import greedylore_jax as gl
from train.config import reader
from train.models import llama, llama_rules

_CONFIG = 'configs/greedylore/llama.py:1b'
_VOCAB = 32_000
_PATH = pathlib.Path(__file__).with_name('OUTLOOK.png')
# A worker: 16,384 tokens a step at 400 TFLOP/s, six operations per parameter
# and token. Compression adds 3 % of that. The latency to a neighbour is 5 us.
_TOKENS, _FLOPS, _OVERHEAD, _LATENCY = 16_384, 4e14, 0.03, 5e-6
# The share of a step with which a dense all-reduce can overlap: its backward
# pass.
_BACKWARD = 2 / 3
_WORKERS = 8, 64, 512, 4096
_GBITS = np.geomspace(1, 400, 60)


def main() -> None:
  """Draws the figure."""
  model = reader.load(_CONFIG).model
  shapes = jax.eval_shape(lambda: llama.init(model, _VOCAB, 0))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  compute = 6 * count * _TOKENS / _FLOPS
  panels = {
    'GreedyLore r = 32, embedding and head dense': (gl.GreedyLore(32), False),
    'PowerSGD r = 32, everything': (gl.PowerSGD(32), True),
  }
  drawn = figure.Figure(figsize=(11, 4.4), layout='constrained')
  axes = drawn.subplots(1, len(panels), sharey=True)
  for ax, (title, (method, embeddings)) in zip(
    axes, panels.items(), strict=True
  ):
    for i, workers in enumerate(_WORKERS):
      plan = gl.plan(
        method,
        shapes,
        num_workers=workers,
        weight_dimension_numbers=llama_rules.matrix_dimension_numbers(
          shapes, embeddings
        ),
      )
      alone, overlapping = _gains(plan, compute)
      ax.plot(_GBITS, alone, color=f'C{i}', label=f'{workers:,} workers')
      ax.plot(_GBITS, overlapping, color=f'C{i}', ls=':')
    ax.axhline(1, color='0.6', lw=0.8)
    ax.set(title=title, xlabel="Gbit/s of a worker's link", xscale='log')
    ax.set_yscale('log')
    ax.set_xticks([1, 10, 100, 400], ['1', '10', '100', '400'])
    ax.set_yticks(ticks := [1, 2, 5, 10, 20], [f'{x}x' for x in ticks])
    ax.minorticks_off()
    ax.spines[['top', 'right']].set_visible(False)
  axes[0].set_ylabel('dense step / compressed step')
  axes[0].legend(frameon=False)
  axes[1].text(
    0.97,
    0.95,
    'dotted: where the dense all-reduce\noverlaps with the backward pass',
    transform=axes[1].transAxes,
    ha='right',
    va='top',
  )
  drawn.suptitle(
    f'A LLaMA of {count / 1e9:.2f}B parameters; {1e3 * compute:.0f} ms of'
    f' computation a step, compression adds {_OVERHEAD:.0%}'
  )
  drawn.savefig(_PATH, dpi=120)
  print(f'drew {_PATH}')


def _gains(plan: gl.Plan, compute: float) -> tuple[list[float], list[float]]:
  """Dense over compressed steps, without and with overlap of dense."""
  alone, overlapping = [], []
  for gbits in _GBITS:
    found = gl.predict(
      plan,
      bandwidth=0.95e9 * gbits / 8,
      latency=_LATENCY,
      compute_seconds=compute,
      overhead_seconds=_OVERHEAD * compute,
    )
    wire = found.dense - compute
    hidden = compute + max(wire - _BACKWARD * compute, 0)
    alone.append(found.dense / found.average)
    overlapping.append(hidden / found.average)
  return alone, overlapping


if __name__ == '__main__':
  main()
