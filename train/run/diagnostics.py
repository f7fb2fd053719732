"""The diagnostics of the compression between two lines of metrics."""

from collections.abc import Callable, Sequence
import math
import statistics
from typing import Any

import greedylore_jax as gl
from train.run import json_files


class Window:
  """`gl.Diagnostics` of the steps since the last line.

  They stay on the device until a line is written, so no step waits for them.
  """

  def __init__(self, saved: Sequence[Any] = ()) -> None:
    """Takes the `state()` of an earlier window."""
    numbers: Callable[[Any], Any] = lambda seen: [
      math.nan if x is None else x for x in seen
    ]
    self._steps = [
      (phase, gl.Diagnostics(*numbers(seen))) for phase, seen in saved
    ]

  def add(self, phase: str, seen: gl.Diagnostics) -> None:
    """Adds those of a step in this phase of the plan."""
    self._steps.append((phase, seen))

  def state(self) -> list[Any]:
    """The steps of this window, for JSON."""
    return json_files.finite(
      [[phase, [*map(float, seen)]] for phase, seen in self._steps]
    )

  def line(self) -> dict[str, Any]:
    """The entries of a line of metrics; the window is empty after that.

    Returns:
      captured_energy, the mean over the steps; error_to_gradient, after the
      last of them; basis_drift, the mean over the refreshes. Unknown ones
      are left out.
    """
    steps, self._steps = self._steps, []
    captured = [float(x.captured_energy) for _, x in steps]
    kept = [float(x.error_to_gradient) for _, x in steps]
    drifts = [
      float(x.basis_drift) for phase, x in steps if phase.startswith('refr')
    ]
    values = {
      'captured_energy': _mean(captured),
      'error_to_gradient': _mean(kept[-1:]),
      'basis_drift': _mean(drifts),
    }
    return {name: x for name, x in values.items() if x is not None}


def _mean(values: list[float]) -> float | None:
  """The mean of the finite values; a skipped step has none."""
  finite = [x for x in values if math.isfinite(x)]
  return statistics.fmean(finite) if finite else None
