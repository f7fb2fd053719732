"""The rank or density with which a method meets a byte budget.

`gl.plan` predicts the bytes that a run reports (see `train.run.traffic`) from
the shapes of the parameters, including dense steps, refreshes, losses and
diagnostics. Where XLA widens messages (16-bit ones on a CPU), a run sends more
and reports it.
"""

import bisect
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax

import greedylore_jax as gl
from train import tasks
from train.config.schema import Config
from train.run import optimizer, traffic

# What sets the bytes of a method, where it is not the rank.
_KNOBS = {
  'dense': None,
  'quantize': None,
  'sign': None,
  'top_k': 'density',
  'random_k': 'density',
  'count_sketch': 'density',
  'sketched_amsgrad': 'density',
  'frugal': 'density',
  'lordo': None,
}
# Of three digits.
_DENSITIES = [
  float(f'{m}e{e}') for e in range(-8, -2) for m in range(100, 1000)
]


def knob(method: str) -> str | None:
  """The key of the compression section that sets a method's bytes, if any."""
  return _KNOBS.get(method, 'rank')


def plan(config: Config, task: tasks.Task) -> gl.Plan:
  """What a run will send; a ValueError if the compression is not possible."""
  # No seed changes what is sent.
  compression = dataclasses.replace(config.compression, seed=0)
  return _plan(
    dataclasses.replace(config, compression=compression, seed=0), task
  )


@functools.cache
def _plan(config: Config, task: tasks.Task) -> gl.Plan:
  mesh = config.mesh
  return optimizer.plan(
    config, task, _shapes(task), mesh.replica, mesh.fsdp * mesh.tensor
  )


def times_fewer(config: Config, task: tasks.Task) -> float:
  """Bytes of dense steps over the bytes of the run, as its summary has them."""
  planned, steps = plan(config, task), config.steps
  diagnosed = traffic.is_diagnosed(planned, config.log.diagnostics)
  extra = steps * traffic.extra_bytes(planned, diagnosed)
  sent = planned.bytes_after(steps) + extra
  return steps * traffic.dense_bytes(planned) / sent


def largest(config: Config, task: tasks.Task, budget: float) -> float:
  """The largest rank or density that stays within the budget.

  The budget is how many times fewer bytes than dense a whole run may send.

  Raises:
    LookupError: if even the smallest value sends more; the message says how
      much.
  """
  method = config.compression.method
  name = str(knob(method))
  values = _values(name, _shapes(task))

  def reached(value):
    try:
      return times_fewer(_with(config, name, value), task)
    except ValueError:  # More than another setting allows.
      return 0.0

  # A higher setting never sends less, so the first that is too high is sought.
  too_high = bisect.bisect_left(
    values, True, key=lambda value: reached(value) < budget
  )
  if too_high == 0:
    raise LookupError(
      f'cannot send {budget:g} times fewer bytes than dense; its'
      f' smallest {name}, {values[0]:g}, sends {reached(values[0]):.2f} times'
      ' fewer (compression.start_step and .update_interval count too)'
    )
  return values[too_high - 1]


def _values(name: str, shapes: Any) -> Sequence[float]:
  """What a knob can be, from low to high."""
  if name == 'density':
    return [*_DENSITIES, 1.0]
  sides = [sorted(x.shape)[-2:] for x in jax.tree.leaves(shapes)]
  return range(1, max(a for a, *b in sides if b) + 1)


def _with(config: Config, name: str, value: float) -> Config:
  changes: dict[str, Any] = {name: value}
  changed = dataclasses.replace(config.compression, **changes)
  return dataclasses.replace(config, compression=changed)


def _shapes(task: tasks.Task) -> Any:
  return jax.eval_shape(lambda: task.init(0))
