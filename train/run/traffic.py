"""How many bytes a run sends: one account for runs, budgets and summaries.

These are the payloads of the all-reduces in training steps: compressed and
dense messages, the mean of the loss and, if enabled, the diagnostics. A
checkpoint averages the errors of a linear method. Its bytes depend on how often
a run is saved, not on its method, so they are counted separately.
"""

import collections
import functools
from typing import Any

import jax
import optax

import greedylore_jax as gl

# Numbers whose mean over the workers is taken at every step, in one message:
# the loss, and the diagnostics of every compressed leaf.
_LOSS, _DIAGNOSTICS = 1, 3


@functools.cache
def ring_factor(num_workers: int) -> float:
  """Bytes on the link of a worker per byte of payload, in a ring all-reduce."""
  return gl.plan(gl.Dense(), {}, num_workers=num_workers).ring_factor


def is_diagnosed(plan: gl.Plan, wanted: bool) -> bool:
  """Whether diagnostics are sent: only a method with errors has any."""
  keeps_errors = any(leaf.error_bytes for leaf in plan.leaves)
  return wanted and keeps_errors and not plan.is_local


def extra_bytes(plan: gl.Plan, diagnosed: bool) -> int:
  """Bytes of every step that the plan does not have: loss and diagnostics."""
  if plan.is_local:
    return 0
  # A mean that does not divide over the devices is padded to a number for each.
  devices = plan.devices_per_worker
  up = lambda count: 4 * devices * -(-count // devices)
  compressed = sum(leaf.compressed for leaf in plan.leaves)
  return up(_LOSS) + (up(_DIAGNOSTICS * compressed) if diagnosed else 0)


def phase_of(plan: gl.Plan, step: int, opt_state: Any) -> str:
  """The phase of a step, counted from 0, after which the state is this one."""
  if plan.is_exact:
    return plan.phase_at(step)
  if int(optax.tree.get(opt_state, 'since')[0]):
    return 'local'
  return plan.phase_after_round(int(optax.tree.get(opt_state, 'rounds')[0]))


def dense_bytes(plan: gl.Plan) -> int:
  """Bytes of a step without compression."""
  return plan.dense_bytes + 4 * _LOSS


class Traffic:
  """The bytes of a run, as in its compiled program; 0 for a single worker.

  Attributes:
    dense_bytes: bytes of a step without compression.
    save_bytes: bytes of a checkpoint, which averages errors of linear methods.
  """

  def __init__(
    self,
    plan: gl.Plan,
    compiled: jax.stages.Compiled,
    diagnosed: bool,
    axis_name: str,
  ):
    """Reads the collectives of a run's compiled step."""
    devices = plan.devices_per_worker
    self._plan = plan
    self._extra = extra_bytes(plan, diagnosed)
    self._by_phase: collections.Counter[str | None] = collections.Counter()
    for collective in gl.collectives(compiled):
      if axis_name in (collective.axes or ()):
        self._by_phase[collective.phase] += devices * collective.payload
    alone = plan.num_workers == 1
    errors = sum(leaf.error_bytes for leaf in plan.leaves)
    self.dense_bytes = 0 if alone else dense_bytes(plan)
    self.save_bytes = 0 if alone or not plan.is_linear else errors

  def step_bytes(self, phase: str) -> int:
    """Bytes of a step in this phase."""
    parts = phase.split('+')
    return self._by_phase[None] + sum(self._by_phase[x] for x in parts)

  def describe(self) -> str:
    """Whether the compiled program sends what was planned, in a sentence."""
    read = sum(self._by_phase.values())
    planned = sum(map(self._plan.bytes_in, self._plan.rounds)) + self._extra
    if not self.dense_bytes:
      return 'A single worker: nothing is sent.'
    if read == planned:
      and_others = (
        f', and {self._extra} bytes for the loss and the diagnostics'
        if self._extra
        else ''
      )
      return (
        f'The collectives of the compiled step send exactly this{and_others}.'
      )
    return (
      f'The collectives of the compiled step send {read:,} bytes over all'
      f' phases together, where {planned:,} were planned. (XLA widens 16-bit'
      ' all-reduces to 32 bits on CPU.) The run counts the former.'
    )
