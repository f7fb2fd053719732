"""How many bytes a run sends, read from its compiled step."""

import collections

import jax

import greedylore_jax as gl

_LOSS_BYTES = 4  # Its mean over the workers, at every step.
_DIAGNOSTICS_BYTES = 12  # They travel with it.


class Traffic:
  """Bytes that a worker puts into all-reduces, as in the compiled program.

  Payload, as in `gl.Plan`, the mean of the loss included. A single worker sends
  nothing, whatever the plan says of its messages.

  Attributes:
    dense_bytes: of a step without compression.
    save_bytes: of a checkpoint, for which the errors of linear methods are
      averaged.
  """

  def __init__(
      self,
      plan: gl.Plan,
      compiled: jax.stages.Compiled,
      workers: int,
      diagnosed: bool,
  ):
    """Reads the compiled step of a run on so many workers.

    Args:
      plan: what it should send.
      compiled: the step.
      workers: how many there are.
      diagnosed: whether diagnostics are sent, too.
    """
    self._plan = plan
    self._beside = _LOSS_BYTES + diagnosed * _DIAGNOSTICS_BYTES
    self._by_phase: collections.Counter[str | None] = collections.Counter()
    for collective in gl.collectives(compiled):
      self._by_phase[collective.phase] += collective.payload
    alone = workers == 1
    errors = sum(leaf.error_bytes for leaf in plan.leaves)
    self.dense_bytes = 0 if alone else plan.dense_bytes + _LOSS_BYTES
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
