"""What a compiled program really sends, read from its text."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

_KINDS = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
    'collective-permute', 'collective-broadcast',
)  # fmt: skip
_INSTRUCTION = re.compile(
    r'= (?P<result>.*?) (?P<kind>' + '|'.join(_KINDS) + r')(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_PHASE = re.compile(r'greedylore\.(\w+)')
_DTYPES = {
    'f64': 'float64', 'f32': 'float32', 'bf16': 'bfloat16', 'f16': 'float16',
    's64': 'int64', 's32': 'int32', 's16': 'int16', 's8': 'int8',
    'u64': 'uint64', 'u32': 'uint32', 'u16': 'uint16', 'u8': 'uint8',
    's4': 'int4', 'u4': 'uint4', 'pred': 'bool',
    'f8e4m3fn': 'float8_e4m3fn', 'f8e5m2': 'float8_e5m2',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a compiled program.

  Attributes:
    kind: 'all-reduce', 'all-gather', ...
    dtype: of its result, as a NumPy name.
    shape: of its result.
    phase: 'warm_up', 'refresh' or 'compress' (or another of `Plan.rounds`) if
      it runs only in such steps of `compress_gradients`; None if it stands
      outside of them.
  """

  kind: str
  dtype: str
  shape: tuple[int, ...]
  phase: str | None

  @property
  def size(self) -> int:
    """Numbers in the result."""
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    """Bytes of the result: for an all-reduce, its payload per worker."""
    return self.size * jnp.dtype(self.dtype).itemsize

  @property
  def payload(self) -> int:
    """Bytes of an all-reduce that takes as long in a ring of workers.

    A ring carries a sum around twice and what it gathers once, so half of an
    all-gather's result counts.
    """
    return self.bytes // 2 if self.kind == 'all-gather' else self.bytes


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
  """The collectives of a compiled step: what is sent, read and not estimated.

  Args:
    compiled: `jitted.lower(...).compile()`.

  Returns:
    One `Collective` per operation and array, in program order. Programs for a
    single device have none.

  Raises:
    TypeError: for something that is not compiled.

  Example:
    >>> import greedylore_jax as gl, jax, jax.numpy as jnp
    >>> gl.collectives(jax.jit(jnp.sin).lower(1.0).compile())
    []
  """
  if not hasattr(compiled, 'as_text'):
    raise TypeError(
        'collectives needs a compiled function, jitted.lower(...).compile(),'
        f' got {type(compiled).__name__}.'
    )
  return [
      collective
      for line in (compiled.as_text() or '').splitlines()
      for collective in _parse(line)
  ]


def _parse(line: str) -> list[Collective]:
  """The arrays that a line of HLO communicates; mostly none."""
  found = _INSTRUCTION.search(line)
  if not found:
    return []
  phase: Any = _PHASE.search(line)
  arrays = _ARRAY.findall(found['result'])
  if found['start'] and found['kind'] == 'all-gather':
    arrays = arrays[len(arrays) // 2 :]  # The operands come before the results.
  if found['start'] and found['kind'] == 'collective-permute':
    arrays = arrays[1:2]  # Operand, result, contexts.
  return [
      Collective(
          found['kind'],
          _DTYPES[dtype],
          tuple(int(n) for n in dims.split(',') if n),
          phase and phase[1],
      )
      for dtype, dims in arrays
  ]
