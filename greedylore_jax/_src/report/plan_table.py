"""A plan as a person reads it: tables of leaves and of steps."""

import collections
from typing import Any

from greedylore_jax._src.engine import schedule
from greedylore_jax._src.types import Function

_Rows = list[tuple[str, ...]]


def leaf_table(p: Any) -> list[str]:
  """One line per kind of leaf; the same leaf of many layers is one kind."""
  kinds = collections.defaultdict(list)
  for x in p.leaves:
    how = x.how + (f', gathered: {x.gathered}' if x.gathered else '')
    kinds[x.kind, x.shape, how].append(x)
  unit = 'per round' if p.is_local else 'per step'
  rows: _Rows = [('leaf', 'shape', 'sent as', 'dense', unit, 'shrinks')]
  for (kind, shape, how), group in kinds.items():
    size = f'{len(group)} x ' if len(group) > 1 else ''
    sent = sum([*x.sent.values()][-1] for x in group)  # Of its last phase.
    whole = sum(x.dense_bytes for x in group)
    rows.append(
      (
        kind if size else group[0].path,
        size + ' x '.join(map(str, shape)),
        _sent_as(group[0], how),
        _human(whole),
        _human(sent),
        f'{whole / max(sent, 1):.1f}x' if group[0].compressed else '',
      )
    )
  return _aligned(rows)


def _sent_as(leaf: Any, how: str) -> str:
  return how if leaf.compressed or how == 'frozen' else f'dense: {how}'


def step_table(p: Any) -> list[str]:
  """What steps send, what is kept, and what that saves on some links."""
  ratio: Function = lambda x: (
    f'{p.dense_bytes / x:.2f}x less than dense' if x else ''
  )
  row: Function = lambda name, sent: (name, _human(sent), ratio(sent))
  rows: _Rows = [('dense step would send', _human(p.dense_bytes), '')]
  if list(p.rounds) != [schedule.DENSE]:
    rows += [row(f'{x} step sends', p.bytes_in(x)) for x in p.rounds]
    at_most = ' at most' if p.varies else ''
    rows.append(row(f'average step sends{at_most}', p.bytes_per_step))
    if steps := p.total_steps:
      at_most = '' if p.is_exact else ' at most'
      average = p.bytes_after(steps) / steps
      rows.append(row(f'average of {steps:,} steps{at_most}', average))
    own = f'of which {_human(p.local_bytes)} are its own parameters'
    added = _human(p.state_bytes)
    rows.append(('state added per worker', added, own if p.is_local else ''))
  if p.devices_per_worker > 1:
    rows.append(
      (
        'each device of a worker sends',
        f'1/{p.devices_per_worker}',
        'of that, over its own link',
      )
    )
  saved = p.ring_factor * (p.dense_bytes - p.bytes_per_step)
  if saved > 0:
    for gbits in (0.1, 1, 10, 100):
      rows.append(
        (
          f'saved per step at {gbits:g} Gbit/s',
          f'{8e-6 * saved / gbits:.3g} ms',
          f'on the wire, ring of {p.num_workers}' if gbits == 0.1 else '',
        )
      )
  return _aligned(rows)


def _aligned(rows: _Rows) -> list[str]:
  """Rows of cells as lines of columns."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    '  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  ]


def _human(count: float) -> str:
  """Bytes in decimal units, three digits."""
  units = ['B', 'kB', 'MB', 'GB', 'TB']
  while count >= 999.5 and len(units) > 1:
    count /= 1000
    units.pop(0)
  return f'{count:.3g} {units[0]}'
