"""`python -m experiments.simulated.front FOLDER`: draws FOLDER/front.png.

The front of a study are the runs that no run with as few bytes is ahead of.
"""

import math
import pathlib
import sys

from matplotlib import axes, figure, ticker

from experiments.simulated import figure as figure_lib
from experiments.simulated import rows

_SAME = 0.95
"""Rows whose bytes differ by less than this share compare."""


def of(group: rows.Group) -> list[rows.Row]:
  """Rows of a group by falling bytes, each ahead of all with fewer bytes."""
  over = lambda row: group.over_dense(row.losses)
  candidates = [x for x in group.rows if math.isfinite(over(x))]
  front: list[rows.Row] = []
  for row in reversed(candidates):  # By rising bytes.
    rivals = [x for x in candidates if x.times_fewer >= _SAME * row.times_fewer]
    if over(row) == min(map(over, rivals)):
      front.insert(0, row)
  return front


def draw(path: pathlib.Path, groups: list[rows.Group]) -> None:
  """A panel for each optimizer, with the front of each number of workers.

  Below it, the runs on the first of these fronts.
  """
  groups = [group for group in groups if len(of(group)) > 2]
  if not groups:
    return
  optimizers = sorted({group.setting.optimizer for group in groups})
  settings = sorted({group.setting[1:] for group in groups})
  drawn = figure.Figure(figsize=(6.2 * len(optimizers), 6))
  drawn.set_layout_engine('constrained')
  panels = drawn.subplots(1, len(optimizers), squeeze=False, sharey=True)[0]
  for ax, optimizer in zip(panels, optimizers, strict=True):
    here = [x for x in groups if x.setting.optimizer == optimizer]
    for group in here:
      _draw_group(ax, group, f'C{settings.index(group.setting[1:])}')
    ax.set_xscale('log')
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    ax.set_xlabel(f'times fewer bytes\n\n{_runs(here[0])}', linespacing=1.4)
    ax.set_title(f'{rows.name(optimizer)} inside')
    ax.grid(alpha=0.3)
    ax.legend(loc='upper left')
    ax.spines[['top', 'right']].set_visible(False)
  panels[0].set_ylabel('held-out loss over dense, %')
  drawn.savefig(path, dpi=120)


def _draw_group(ax: axes.Axes, group: rows.Group, color: str) -> None:
  front, setting = of(group), group.setting
  ax.plot(
    [row.times_fewer for row in front],
    [group.over_dense(row.losses) for row in front],
    color=color,
    marker='o',
    label=str(setting).partition('inside, ')[2],
  )
  if group.alone:
    level = group.over_dense(group.alone.losses)
    figure_lib.draw_alone(ax, level, color)


def _runs(group: rows.Group) -> str:
  """What the runs on a front send, in lines."""
  lines = [f'With {group.setting.workers} workers:']
  for row in of(group):
    if row.times_fewer > 1:
      when = rows.when(row.config).replace(', SGD 1', '')
      lines.append(
        f'{row.times_fewer:,.0f} times: {rows.what(row.config)}, {when}'
      )
  return '\n'.join(lines)


if __name__ == '__main__':
  folder = pathlib.Path(sys.argv[1])
  draw(folder / 'front.png', rows.read(folder))
