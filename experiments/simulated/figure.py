"""The figure of a study: held-out loss against bytes."""

import itertools
import math
import pathlib
import re
from typing import Any

import matplotlib

from experiments.simulated.rows import Group, Row, what
from train.config.schema import Local

matplotlib.use('Agg')
from matplotlib import lines as lines_lib
import matplotlib.pyplot as plt

_MARKERS = 'os^DvP*X<>dph1234+x|_'


def draw(path: pathlib.Path, groups: list[Group]) -> None:
  """Held-out loss against bytes: a row of panels for workers and sequences.

  Groups without a dense run have nothing to be compared with.
  """
  groups = [group for group in groups if group.dense]
  if not groups:
    return
  names = sorted({group.setting.optimizer for group in groups})
  shapes = sorted({group.setting[1:] for group in groups})
  figure, axes = plt.subplots(
    len(shapes),
    len(names),
    figsize=(6.5 * len(names), 4.6 * len(shapes) + 1),
    squeeze=False,
    layout='constrained',
  )
  every = [_every(row) for group in groups for row in group.rows]
  colors = {
    x: matplotlib.colormaps['viridis'](i / max(1, len({*every}) - 1))
    for i, x in enumerate(sorted({*every}))
  }
  rows = [row for group in groups for row in group.rows]
  label = _sent
  if len({*map(_sent, rows)}) > len(_MARKERS):
    label = _method
  sent = dict.fromkeys(map(label, rows))
  markers = dict(zip(sent, itertools.cycle(_MARKERS), strict=False))
  marker_of = lambda row: markers[label(row)]
  for ax in axes.flat:
    ax.set_axis_off()  # Where there is no group.
  for group in groups:
    name, *shape = group.setting
    ax = axes[shapes.index(tuple(shape))][names.index(name)]
    ax.set_axis_on()
    _draw_group(ax, group, colors, marker_of)
  handle = lambda label, **style: lines_lib.Line2D(
    [], [], ls='', label=label, **style
  )
  figure.legend(
    handles=[
      *(handle(x, marker=m, color='gray') for x, m in markers.items()),
      *(
        handle('QSR' if x == 0 else f'H = {x}', marker='s', color=color)
        for x, color in colors.items()
      ),
    ],
    loc='outside lower center',
    ncols=2 * len(names),
    frameon=False,
  )
  figure.savefig(path, dpi=120, bbox_inches='tight')
  plt.close(figure)


def _draw_group(ax: Any, group: Group, colors: Any, marker_of: Any) -> None:
  finite = [x for x in group.rows if math.isfinite(group.over_dense(x.losses))]
  for row in finite:
    each = (group.over_dense({seed: x}) for seed, x in row.losses.items())
    percent = [*filter(math.isfinite, each)]
    mean = group.over_dense(row.losses)
    ax.errorbar(
      row.times_fewer,
      mean,
      yerr=[[mean - min(percent)], [max(percent) - mean]],
      marker=marker_of(row),
      color=colors[_every(row)],
      ms=7,
      mfc='none' if _has_momentum(row.config.local) else None,
      ls='',
    )
  ax.axhline(0, color='black', ls='--', lw=1)
  ax.set_xscale('log')
  tops = [group.over_dense(row.losses) for row in finite]
  level = group.over_dense(group.alone.losses) if group.alone else math.nan
  if math.isfinite(level):
    draw_alone(ax, level, 'crimson')
    tops = [x for x in tops if x < 1.3 * level] + [level]
  if tops and all(map(math.isfinite, tops)):
    ax.set_ylim(min(0, *tops) - 1, 1.1 * max(tops) + 1)
  ax.set_title(str(group.setting))
  ax.set_xlabel('times fewer bytes (open: with outer momentum)')
  ax.set_ylabel('held-out loss over dense, %')
  ax.grid(alpha=0.3, which='both')


def draw_alone(ax: Any, level: float, color: str) -> None:
  """The loss of one worker alone, as a dotted line."""
  ax.axhline(level, color=color, ls=':', lw=1)
  ax.annotate(
    'one worker alone',
    (0.99, level),
    xycoords=('axes fraction', 'data'),
    ha='right',
    va='bottom',
    color=color,
  )


def _has_momentum(local: Local) -> bool:
  return local.is_on and local.outer_momentum > 0


def _every(row: Row) -> int:
  """The length of rounds; 0 for a rule."""
  local = row.config.local
  return 0 if local.qsr_alpha is not None else local.every


def _sent(row: Row) -> str:
  return what(row.config).partition(', error decay')[0]


def _method(row: Row) -> str:
  """What is sent without its settings."""
  return re.split(r',| r =| density| in \d| int\d', what(row.config))[0]
