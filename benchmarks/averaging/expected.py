"""The seconds of a step that `gl.predict` expects."""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.averaging import ours, shapes
import greedylore_jax as gl

# The share of a link's rate that headers leave, and the latency of a message.
_SHARE, _LATENCY = 0.95, 2e-4


def seconds(
  model: str,
  hosts: int,
  rate: float,
  method: str,
  *,
  dense_alone: float,
  fast: dict[str, float],
) -> float:
  """Seconds of a step on average, with refreshes at their share.

  Args:
    model: key of `shapes.LLAMAS`.
    hosts: number of hosts.
    rate: of a link, in bits per second.
    method: key of `ours.METHODS`.
    dense_alone: seconds of a dense step of one worker alone.
    fast: phase -> seconds of this method's steps on links without limit.
  """
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
  leaves = {
    name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in shapes.matrices(model).items()
  }
  compressor, options = ours.METHODS[method]
  return gl.plan(compressor, leaves, num_workers=hosts, **options)
