"""The diagnostics of the compression between two lines of metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import greedylore_jax as gl
from train.run import json_files

NAMES = 'captured_energy', 'error_to_gradient', 'basis_drift'
_DIGITS = 4  # Of the numbers of a leaf.


class Window:
  """`gl.Diagnostics` of the steps since the last line.

  They stay on the device until a line is written, so no step waits for them.
  """

  def __init__(self, leaves: Sequence[str], saved: Sequence[Any] = ()) -> None:
    """Takes the paths of the compressed leaves, and the `state()` of before."""
    self._leaves = leaves
    self._steps = [
      (phase, seen)
      for phase, seen in saved
      if np.shape(seen) == (1 + len(leaves), len(NAMES))
    ]

  def add(self, phase: str, seen: gl.Diagnostics) -> None:
    """Adds those of a step in this phase of the plan."""
    self._steps.append((phase, seen))

  def state(self) -> list[Any]:
    """The steps of this window, for JSON."""
    return json_files.finite(
      [[phase, _rows(seen).tolist()] for phase, seen in self._steps]
    )

  def line(self) -> dict[str, Any]:
    """The entries of a line of metrics; the window is empty after that.

    Returns:
      captured_energy, the mean over the steps; error_to_gradient, after the
      last of them; basis_drift, the mean over the refreshes; and the same of
      each compressed leaf, as captured_energy/blocks/0/query. Unknown ones are
      left out.
    """
    steps, self._steps = self._steps, []
    if not steps:
      return {}
    rows = np.stack([_rows(seen) for _, seen in steps])  # [steps, leaves, 3]
    refreshes = [phase.startswith('refr') for phase, _ in steps]
    captured, kept, drift = np.moveaxis(rows, -1, 0)
    columns = _means(captured), _means(kept[-1:]), _means(drift[refreshes])
    return {
      name + path: value if not path else float(f'{value:.{_DIGITS}g}')
      for name, column in zip(NAMES, columns, strict=True)
      for path, value in zip(
        ('', *(f'/{x}' for x in self._leaves)), column.tolist(), strict=True
      )
      if np.isfinite(value)
    }


def of_leaves(
  lines: Sequence[dict[str, Any]], name: str
) -> dict[str, list[tuple[int, float]]]:
  """Path -> (step, value) of one of NAMES, from lines of metrics."""
  found: dict[str, list[tuple[int, float]]] = {}
  for line in lines:
    for key, value in line.items():
      if key.startswith(f'{name}/'):
        path = key.removeprefix(f'{name}/')
        found.setdefault(path, []).append((line['step'], value))
  return found


def _rows(seen: Any) -> np.ndarray:
  """A row of numbers for all leaves together, then one for each of them.

  `seen` is a `gl.Diagnostics`, or such rows as JSON has stored them.
  """
  if not isinstance(seen, gl.Diagnostics):
    return np.asarray(seen, float)
  rows = np.reshape(np.asarray(seen[: len(NAMES)], float), (1, -1))
  if seen.by_leaf is None:
    return rows
  each = np.asarray(seen.by_leaf[: len(NAMES)], float).T
  return np.concatenate([rows, each])


def _means(values: np.ndarray) -> np.ndarray:
  """Over the steps that have a finite value, [steps, leaves] -> [leaves]."""
  known = np.isfinite(values)
  total = np.sum(np.where(known, values, 0.0), axis=0)
  count = np.sum(known, axis=0)
  return np.where(count, total / np.maximum(count, 1), np.nan)
