"""Error feedback: what is not sent is kept, and is sent later."""

import dataclasses
from typing import Any
from typing import Literal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks as _checks
from greedylore_jax._src.engine import leaf as _leaves

Kind = bool | Literal['ef14', 'ef21']


class Tracked(NamedTuple):
  """Memory under EF21: the compressor's, and what all workers follow."""

  memory: Any
  mean: jax.Array


@dataclasses.dataclass(frozen=True)
class ErrorFeedback:
  """What becomes of the rest: the same for every method.

  Attributes:
    kind: see `compress_gradients`, `error_feedback`.
    dtype: of the errors as they are kept; None is that of the linear algebra.
  """

  kind: Kind = True
  dtype: Any = None

  def __post_init__(self):
    if self.kind not in (True, False, 'ef14', 'ef21'):
      raise ValueError(
        "error_feedback must be True (which is 'ef14'), False or 'ef21', got"
        f' error_feedback={self.kind!r}.'
      )
    _checks.check_dtype('error_dtype', self.dtype, _checks.FLOATING)
    if self.dtype is not None and self.kind == 'ef21':
      raise ValueError(
        "error_feedback='ef21' follows the gradients by differences, whose"
        ' rounding would add up: leave error_dtype at None.'
      )

  def init(self, leaf: _leaves.Leaf, memory: Any) -> tuple[Any, Any]:
    """(error, memory) before the first step; `memory` is the compressor's."""
    if not self.kind:
      return optax.MaskedNode(), memory
    dtype = compute_dtype(leaf.dtype)
    error = jnp.zeros((1, *leaf.shape), self.dtype or dtype)
    if self.kind == 'ef21':
      return error, Tracked(memory, jnp.zeros(leaf.shape, dtype))
    return error, memory

  def fed(self, leaf: _leaves.Leaf, g: jax.Array, error: Any) -> jax.Array:
    """H = G + E, what is to be sent.

    Under EF21 the error is E_i = -D_i, where D_i is what the others know of
    worker i: so H_i = G_i - D_i.
    """
    if leaf.matrices is None:
      return g
    h = g.astype(compute_dtype(g.dtype))
    if not self.kind:
      return h
    # In the error's shape: XLA can then write the next one where this one lies.
    return (h[None] + error.astype(h.dtype))[0]

  def fed_back(
    self,
    g: jax.Array,
    h: jax.Array,
    error: Any,
    memory: Any,
    output: jax.Array,
    sent: Any,
    remembered: Any,
    finite: jax.Array,
  ) -> tuple[jax.Array, Any, Any]:
    """(update, error, memory) after a step.

    What was not sent is kept. Under EF21 D = mean_i D_i is the update. If the
    step is not `finite`, the update is NaN and the state stays as it was, which
    `remembered`, the compressor's own, already is.
    """
    keep = lambda new, old: jnp.where(finite, new, old).astype(old.dtype)
    or_nan = lambda x: jnp.where(finite, x, jnp.nan).astype(g.dtype)
    if sent is None:
      return or_nan(output), error, remembered
    if self.kind == 'ef21':
      d = memory.mean + output
      tracked = Tracked(remembered, keep(d, memory.mean))
      return or_nan(d), keep(error - sent[None], error), tracked
    left = h[None] - sent[None]
    if g.dtype != output.dtype:  # The update's rounding.
      left += (output - output.astype(g.dtype).astype(output.dtype))[None]
    return or_nan(output), keep(left, error), remembered


def remembered(memory: Any) -> Any:
  """The compressor's own memory."""
  return memory.memory if isinstance(memory, Tracked) else memory


def compute_dtype(dtype: Any) -> Any:
  """The dtype of the linear algebra: float32 unless the gradient has more."""
  return jnp.promote_types(dtype, jnp.float32)
