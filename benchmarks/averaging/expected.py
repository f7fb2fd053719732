"""What `gl.predict` expects of a step, beside what was measured."""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.averaging import ours
from benchmarks.averaging import shapes
import greedylore_jax as gl

# Of a link's rate, what headers leave; and until a message is under way.
_SHARE, _LATENCY = 0.95, 2e-4


def seconds(
  place: tuple[str, int, float],
  method: str,
  dense_alone: float,
  fast: dict[str, float],
) -> float:
  """Of a step on average, refreshes at their share.

  Args:
    place: a key of `shapes.LLAMAS`, how many hosts, bits per second of a link.
    method: a key of `ours.METHODS`.
    dense_alone: what a dense step takes one worker.
    fast: what this method's steps take on fast links, by their kind.
  """
  model, hosts, rate = place
  overheads: Any = 0.0
  if method != 'dense':
    overheads = {kind: max(x - dense_alone, 0.0) for kind, x in fast.items()}
  found = gl.predict(
    _plan(model, method, hosts),
    bandwidth=_SHARE * rate / 8,
    latency=_LATENCY,
    compute_seconds=dense_alone,
    overhead_seconds=overheads,
  )
  return found.dense if method == 'dense' else found.average


@functools.cache
def _plan(model: str, method: str, hosts: int) -> gl.Plan:
  return gl.plan(
    ours.METHODS[method],
    {
      name: jax.ShapeDtypeStruct(shape, np.float32)
      for name, shape in shapes.matrices(model).items()
    },
    num_workers=hosts,
  )
