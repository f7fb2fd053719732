"""A study as curves: loss against steps, bytes and predicted time."""

import pathlib
from typing import Any

import matplotlib

from train.page import chart
from train.study import comparison

matplotlib.use('Agg')
from matplotlib import lines, ticker
import matplotlib.pyplot as plt

# Colors that differ side by side; dense is black.
_TAB20 = matplotlib.color_sequences['tab20']
_COLORS = [*_TAB20[::2], *_TAB20[1::2]]
_STYLES = ('-', '--', ':', '-.')


def draw(
  path: pathlib.Path, rows: list[comparison.Row], bandwidth: float
) -> None:
  """Draws held-out losses: means over the seeds at each best learning rate.

  Colors show methods, and line styles budgets. `bandwidth` is for predicted
  times, in Mbit/s; see `comparison.wire_seconds`.
  """
  colors = colors_of(rows)
  styles = styles_of(rows)
  figure, axes = plt.subplots(
    1, 3, figsize=(15, 7), sharey=True, layout='constrained'
  )
  curves = [row.curve(bandwidth) for row in rows]
  for row, curve in zip(rows, curves, strict=True):
    for ax, key, scale in (
      (axes[0], 'step', 1.0),
      (axes[1], 'bytes_sent', 1e-6),
      (axes[2], 'seconds', 1.0),
    ):
      ax.plot(
        [x[key] * scale for x in curve],
        [x['eval_loss'] for x in curve],
        styles[row.budget],
        color=colors[row.method],
        lw=1.4,
        marker='o',
        ms=3,
      )
  axes[0].set_ylim(chart.focus([[x['eval_loss'] for x in y] for y in curves]))
  sent = [x['bytes_sent'] for curve in curves for x in curve]
  if any(sent):  # A single worker sends nothing, ever.
    narrow = max(sent) < 5 * min(sent)
    subs = (1, 1.5, 2, 3, 4, 6, 8) if narrow else (1, 2, 5)
    axes[1].set_xscale('log')
    axes[1].xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axes[1].xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,g}'))
    axes[1].xaxis.set_minor_formatter(ticker.NullFormatter())
  axes[0].set_xlabel('step')
  axes[1].set_xlabel('MB sent per worker')
  axes[2].set_xlabel(f'predicted seconds at {bandwidth:g} Mbit/s')
  axes[0].set_ylabel('held-out loss')
  for ax in axes:
    ax.grid(alpha=0.3, which='both')
  _legend(figure, colors, styles)
  figure.savefig(path, dpi=120)
  plt.close(figure)


def colors_of(rows) -> dict[str, Any]:
  """A color for each method."""
  methods = dict.fromkeys(row.method for row in rows)
  colored = [method for method in methods if method != 'dense']
  found: dict[str, Any] = {
    m: _COLORS[i % len(_COLORS)] for i, m in enumerate(colored)
  }
  return {m: found.get(m, 'black') for m in methods}


def styles_of(rows) -> dict[float | None, str]:
  """A style of line for each budget; without one it is solid."""
  budgets = sorted({row.budget for row in rows if row.budget is not None})
  found = {b: _STYLES[i % len(_STYLES)] for i, b in enumerate(budgets)}
  return {None: '-', **found}


def _legend(figure, colors, styles) -> None:
  """Methods by color and budgets by style, below the panels."""
  handles = [
    lines.Line2D([], [], color=color, lw=2, label=method)
    for method, color in colors.items()
  ]
  handles += [
    lines.Line2D([], [], color='gray', ls=style, label=f'{b:g}x fewer bytes')
    for b, style in styles.items()
    if b is not None
  ]
  longest = max(len(str(handle.get_label())) for handle in handles)
  inches = 0.6 + 0.085 * longest  # Of a column: its line and its letters.
  figure.legend(
    handles=handles,
    loc='outside lower center',
    frameon=False,
    ncols=min(6, len(handles), int(figure.get_figwidth() / inches) or 1),
  )
