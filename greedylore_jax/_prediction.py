"""Will it pay? Seconds of a step from bytes, links and workers."""

from typing import NamedTuple

from greedylore_jax import _plan
from greedylore_jax import _plan_table
from greedylore_jax import _transport


class Prediction(NamedTuple):
  """Seconds of a step, by the model of `predict`.

  Attributes:
    dense: if everything were sent.
    average: with compression, in the long run, refreshes at their share.
    worst: of the longest kind of step that goes on to occur.
    break_even: the bandwidth below which compression is the faster on average,
      bytes per second; infinite if it is on any link, 0 if on none.
  """

  dense: float
  average: float
  worst: float
  break_even: float


def predict(
    plan: _plan.Plan,
    *,
    bandwidth: float,
    latency: float = 0.0,
    compute_seconds: float = 0.0,
    overhead_seconds: float = 0.0,
) -> Prediction:
  """What steps of a plan will take, with links and computing as given.

  Workers form a ring, as most libraries' all-reduce does: each of 2 (N - 1)
  times a worker waits for the latency and sends 1 / N of a message. Computing
  and sending do not overlap, which favours compression; where your dense
  all-reduce hides behind the backward pass, take for `compute_seconds` only
  what it does not hide behind.

  Args:
    plan: from `gl.plan`, with the `num_workers` in question.
    bandwidth: of each worker's link, bytes per second one way (a Gbit/s is
      1.25e8, of which headers leave some 95 %).
    latency: seconds until a message begins to arrive, and of starting it.
    compute_seconds: of a step without communication, dense; measure it with
      one worker.
    overhead_seconds: what compression adds to that, measured likewise (the
      time of a compressed step less that of a dense one).

  Returns:
    A `Prediction`.

  Raises:
    ValueError: for a bandwidth that is not positive, or negative seconds.

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
  if bandwidth <= 0:
    raise ValueError(
        f'bandwidth must be positive, bytes per second, got {bandwidth!r}.'
    )
  if min(latency, compute_seconds, overhead_seconds) < 0:
    raise ValueError(
        'latency, compute_seconds and overhead_seconds must not be negative,'
        f' got {latency!r}, {compute_seconds!r} and {overhead_seconds!r}.'
    )
  workers, ring = plan.num_workers, _plan_table.ring_factor(plan.num_workers)

  def waiting(sent: _transport.Sent) -> float:
    return latency * (workers - 1) * (1 if 'gather' in sent.kind else 2)

  dense_waits = latency * 2 * (workers - 1)
  dense = compute_seconds + dense_waits + ring * plan.dense_bytes / bandwidth
  computing = compute_seconds + overhead_seconds
  waits = {x: sum(map(waiting, rounds)) for x, rounds in plan.rounds.items()}
  seconds = {
      phase: computing + waits[phase] + ring * plan.bytes_in(phase) / bandwidth
      for phase in plan.rounds
  }
  phases = plan.lasting_phases()
  mean = lambda of: sum(of[x] * share for x, share in phases.items())
  slower = overhead_seconds + mean(waits) - dense_waits
  saved = ring * (plan.dense_bytes - plan.bytes_per_step)
  break_even = float('inf') if slower <= 0 else max(saved, 0) / slower
  worst = max(seconds[phase] for phase in phases)
  return Prediction(dense, mean(seconds), worst, break_even)
