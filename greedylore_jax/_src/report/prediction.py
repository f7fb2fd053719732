"""Will it pay? Seconds of a step from bytes, links and workers."""

from collections.abc import Mapping
from typing import NamedTuple

from greedylore_jax._src import checks
from greedylore_jax._src.report.plan import Plan
from greedylore_jax._src.types import Function
from greedylore_jax._src.wire.recording import Message


class Prediction(NamedTuple):
  """Seconds of a step, by the model of `predict`.

  Attributes:
    dense: if everything were sent.
    average: with compression, in the long run, refreshes at their share.
    worst: of the longest phase that occurs in the long run.
    break_even: the bandwidth below which compression is the faster on average,
      bytes per second; infinite if it is on any link, 0 if it saves no bytes.
  """

  dense: float
  average: float
  worst: float
  break_even: float


def predict(
  plan: Plan,
  *,
  bandwidth: float,
  latency: float = 0.0,
  compute_seconds: float = 0.0,
  overhead_seconds: float | Mapping[str, float] = 0.0,
) -> Prediction:
  """The seconds that steps of a plan will take, for given links and computing.

  Workers form a ring, as in most libraries' all-reduce: 2 (N - 1) times, a
  worker waits for the latency and sends 1 / N of a message. Computing
  and sending do not overlap, which favors compression. If your dense
  all-reduce overlaps with the backward pass, pass only the rest of it as
  `compute_seconds`.

  Args:
    plan: from `gl.plan`, with the `num_workers` in question.
    bandwidth: of each worker's link, bytes per second one way (a Gbit/s is
      1.25e8, of which headers leave some 95 %).
    latency: seconds until a message begins to arrive, and of starting it.
    compute_seconds: of a step without communication, dense; measure it with
      one worker.
    overhead_seconds: what compression adds to that: the time of a compressed
      step minus that of a dense one, with one worker or, to include the
      handling of messages, with several on a fast link. A mapping gives it for
      each phase of `plan.rounds` that lasts.

  Returns:
    A `Prediction`.

  Raises:
    ValueError, TypeError: for a plan of a single worker, a bandwidth that is
      not a number above 0, or seconds that are not at least 0.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> params = {'w': jnp.ones((1024, 4096))}
    >>> p = gl.plan(gl.PowerSGD(rank=32), params, num_workers=2)
    >>> found = gl.predict(p, bandwidth=12.5e6, overhead_seconds=0.01)
    >>> round(found.dense, 3), round(found.average, 3)
    (1.342, 0.062)

  References:
    Rings: Thakur, Rabenseifner, Gropp, Optimization of Collective Communication
    Operations in MPICH (2005), the model of latency and bandwidth there.
  """
  checks.check_positive('bandwidth', bandwidth)
  checks.check_nonnegative('latency', latency)
  checks.check_nonnegative('compute_seconds', compute_seconds)
  if plan.num_workers < 2:
    raise ValueError(
      'predict needs a plan of at least 2 workers, as a single one sends'
      f' nothing, got num_workers={plan.num_workers}: make the plan with'
      ' gl.plan(..., num_workers=...).'
    )
  phases = plan.lasting_phases()
  overheads = (
    overhead_seconds
    if isinstance(overhead_seconds, Mapping)
    else dict.fromkeys(phases, overhead_seconds)
  )
  if phases.keys() - overheads.keys():
    raise ValueError(
      'overhead_seconds must be given for every phase that lasts,'
      f' {sorted(phases)}, got {sorted(overheads)}.'
    )
  for overhead in overheads.values():
    checks.check_nonnegative('overhead_seconds', overhead)
  workers, ring = plan.num_workers, plan.ring_factor

  def waiting(sent: Message) -> float:
    return latency * (workers - 1) * (2 if sent.kind == 'all-reduce' else 1)

  # In addition to the wire: starting messages, and computing.
  dense_other = latency * 2 * (workers - 1)
  other = {
    x: sum(map(waiting, plan.messages_in(x))) + overheads[x] for x in phases
  }
  dense = compute_seconds + dense_other + ring * plan.dense_bytes / bandwidth
  seconds = {
    x: compute_seconds + other[x] + ring * plan.bytes_in(x) / bandwidth
    for x in phases
  }
  mean: Function = lambda of: sum(of[x] * share for x, share in phases.items())
  slower = mean(other) - dense_other
  saved = ring * (plan.dense_bytes - plan.bytes_per_step)
  if saved <= 0:
    break_even = 0.0
  else:
    break_even = saved / slower if slower > 0 else float('inf')
  return Prediction(dense, mean(seconds), max(seconds.values()), break_even)
