"""How many bytes a run sends, read from its compiled step."""

import collections

import jax

import greedylore_jax as gl

# Numbers whose mean over the workers is taken at every step, in one message.
_LOSS, _DIAGNOSTICS = 1, 3


class Traffic:
  """Bytes that a worker puts into all-reduces, as in the compiled program.

  Payload, as in `gl.Plan`, the mean of the loss included, of all devices of the
  worker together. What these send each other does not count. A single worker
  sends nothing, whatever the plan says of its messages.

  Attributes:
    dense_bytes: of a step without compression.
    save_bytes: of a checkpoint, for which the errors of linear methods are
      averaged.
  """

  def __init__(
      self,
      plan: gl.Plan,
      compiled: jax.stages.Compiled,
      diagnosed: bool,
      axis_name: str,
  ):
    """Reads the compiled step of a run.

    Args:
      plan: what it should send.
      compiled: the step.
      diagnosed: whether diagnostics are sent, too.
      axis_name: mesh axis of the workers.
    """
    devices = plan.devices_per_worker
    self._plan = plan
    # What does not divide is filled up to a number for each device.
    up = lambda count: 4 * devices * -(-count // devices)
    self._beside = up(_LOSS) + (up(_DIAGNOSTICS) if diagnosed else 0)
    self._by_phase: collections.Counter[str | None] = collections.Counter()
    for collective in gl.collectives(compiled):
      if axis_name in (collective.axes or ()):
        self._by_phase[collective.phase] += devices * collective.payload
    alone = plan.num_workers == 1
    errors = sum(leaf.error_bytes for leaf in plan.leaves)
    self.dense_bytes = 0 if alone else plan.dense_bytes + 4 * _LOSS
    self.save_bytes = 0 if alone or not plan.is_linear else errors

  def step_bytes(self, step: int) -> int:
    """Bytes of a step, counted from 0."""
    return self._by_phase[None] + self._by_phase[self._plan.phase_at(step)]

  def describe(self) -> str:
    """Whether the compiled program sends what was planned, in a sentence."""
    read = sum(self._by_phase.values())
    planned = sum(map(self._plan.bytes_in, self._plan.rounds)) + self._beside
    if not self.dense_bytes:
      return 'A single worker: nothing is sent.'
    if read == planned:
      return (
          'Read from the compiled step: its all-reduces send exactly this, and'
          f' {self._beside} bytes for the loss and what is observed.'
      )
    return (
        f'Read from the compiled step: its all-reduces send {read:,} bytes over'
        f' the kinds of step together, planned were {planned:,}. (XLA widens'
        ' 16-bit all-reduces to 32 bits on CPU.) Counted is what is read.'
    )
