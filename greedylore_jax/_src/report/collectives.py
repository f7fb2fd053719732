"""What a compiled program really sends, read from its text."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.engine import fragments

_KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'collective-broadcast',
)
_INSTRUCTION = re.compile(
  r'= (?P<result>.*?) (?P<kind>' + '|'.join(_KINDS) + r')(?P<start>-start)?\('
)
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_LISTED = re.compile(r'(?:replica_groups|source_target_pairs)={({[^=]*})}')
_INNER = re.compile(r'{([\d,]+)}')
_COUNTED = re.compile(
  r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?'
)
_NAMED = re.compile(r'replica_groups=mesh\[([^\]]*)\] {([^}]*)}')
_NAMED_SIZE = re.compile(r"'([^']*)'=(\d+)")
_NAMED_AXIS = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")
_EVERYBODY = re.compile(r'replica_groups={}')
_PHASE = re.compile(r'greedylore\.(\w+)')
_DTYPES = {
  'f64': 'float64',
  'f32': 'float32',
  'bf16': 'bfloat16',
  'f16': 'float16',
  's64': 'int64',
  's32': 'int32',
  's16': 'int16',
  's8': 'int8',
  'u64': 'uint64',
  'u32': 'uint32',
  'u16': 'uint16',
  'u8': 'uint8',
  's4': 'int4',
  'u4': 'uint4',
  'pred': 'bool',
  'c64': 'complex64',
  'c128': 'complex128',
  'f8e4m3fn': 'float8_e4m3fn',
  'f8e5m2': 'float8_e5m2',
}


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a compiled program.

  Attributes:
    kind: 'all-reduce', 'all-gather', ...
    axes: the mesh axes along which it goes, in their order; None if the program
      does not say on which mesh it runs.
    dtype: of its result, as a NumPy name.
    shape: of its result: of an all-gather the parts of all workers together,
      where `Plan.rounds` has the part of one.
    phase: 'warmup', 'refresh' or 'compress' (or another of `Plan.rounds`) if
      it runs only in such steps of `compress_gradients`; None if it stands
      outside of them. XLA may merge neighbors: the mean of the losses, 4 bytes,
      then has the phase of the last message.
  """

  kind: str
  axes: tuple[str, ...] | None
  dtype: str
  shape: tuple[int, ...]
  phase: str | None

  @property
  def size(self) -> int:
    """Numbers in the result."""
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    """Bytes of the result: for an all-reduce, its payload per device."""
    return self.size * jnp.dtype(self.dtype).itemsize

  @property
  def payload(self) -> int:
    """Bytes of an all-reduce that takes as long in a ring of workers.

    A ring carries a sum around twice. What it gathers or exchanges it carries
    once, so half of the result of an all-gather or an all-to-all counts.
    """
    once = self.kind in ('all-gather', 'all-to-all')
    return self.bytes // 2 if once else self.bytes


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
  """The collectives of a compiled step, read from its program.

  Args:
    compiled: `jitted.lower(...).compile()`.

  Returns:
    One `Collective` per operation and array, in program order. A program
    of one worker on a mesh has them, too, though nothing leaves its device.

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
  mesh = _mesh_of(compiled)
  return [
    collective
    for line in (compiled.as_text() or '').splitlines()
    for collective in _parse(line, mesh)
  ]


def _mesh_of(compiled: jax.stages.Compiled) -> Any:
  """The mesh on which a program has its arguments or results, or None."""
  shardings = compiled.input_shardings, compiled.output_shardings
  for sharding in jax.tree.leaves(shardings):
    if isinstance(sharding, jax.sharding.NamedSharding):
      return sharding.mesh
  return None


def _parse(line: str, mesh: Any) -> list[Collective]:
  """The arrays that a line of HLO communicates; mostly none."""
  found = _INSTRUCTION.search(line)
  if not found:
    return []
  phase = _phase_of(line)
  arrays = _ARRAY.findall(found['result'])
  if found['start'] and found['kind'] == 'all-gather':
    arrays = arrays[len(arrays) // 2 :]  # The operands come before the results.
  if found['start'] and found['kind'] == 'collective-permute':
    arrays = arrays[1:2]  # Operand, result, contexts.
  if found['kind'] == 'all-to-all' and len(arrays) > 1:
    dtype, dims = arrays[0]  # One array for each worker.
    arrays = [(dtype, f'{len(arrays)},{dims}')]
  return [
    Collective(
      found['kind'],
      _axes_of(line, mesh) if mesh else None,
      _DTYPES[dtype],
      tuple(int(n) for n in dims.split(',') if n),
      phase,
    )
    for dtype, dims in arrays
  ]


def _phase_of(line: str) -> str | None:
  """The phase in whose scope an operation is, with its fragment if any."""
  found = _PHASE.findall(line)
  fragment = [x for x in found if x.startswith(fragments.SCOPE)]
  names = [x for x in found if x not in fragment]
  suffix = f'_{fragment[0].removeprefix(fragments.SCOPE)}' if fragment else ''
  return names[0] + suffix if names else None


def _axes_of(line: str, mesh: Any) -> tuple[str, ...]:
  """The axes along which the members of a line's groups differ."""
  shape = tuple(mesh.shape.values())
  groups = _groups(line) or [range(mesh.size)]
  places = [np.unravel_index(np.array(group), shape) for group in groups]
  return tuple(
    axis
    for i, axis in enumerate(mesh.axis_names)
    if any(len(set(place[i].tolist())) > 1 for place in places)
  )


def _groups(line: str) -> list[Any]:
  """The groups of device numbers that communicate, in the order of the mesh.

  XLA writes them in three forms: as lists, {{0,1},{2,3}}; as a shape for the
  numbers from 0, [2,2]<=[4], which [2,2]<=[2,2]T(1,0) transposes first; and,
  since jax 0.11.2, as axes of a mesh, mesh['a'=2,'b'=2] {'b'}. No group means
  that all devices are one group.
  """
  if found := _LISTED.search(line):
    return [
      [int(i) for i in group.split(',')] for group in _INNER.findall(found[1])
    ]
  if found := _NAMED.search(line):
    sizes = {name: int(n) for name, n in _NAMED_SIZE.findall(found[1])}
    return _named_groups(sizes, _NAMED_AXIS.findall(found[2]))
  if found := _COUNTED.search(line):
    to, start, order = (
      [int(i) for i in (numbers or '').split(',') if i]
      for numbers in found.groups()
    )
    numbers = np.arange(math.prod(start)).reshape(start)
    return list(numbers.transpose(order or None).reshape(to))
  if 'replica_groups=' in line and not _EVERYBODY.search(line):
    raise ValueError(
      'expected replica_groups as lists, as a shape or as the axes of a mesh,'
      f' got {line.strip()!r}: use a version of jax that is supported.'
    )
  return []


def _named_groups(
  sizes: dict[str, int], axes: list[tuple[str, str, str]]
) -> list[list[int]]:
  """The devices that differ only along some axes of a mesh.

  Args:
    sizes: of the axes of the mesh.
    axes: ('a', '', '') is the axis 'a'. ('a', '2', '4') is its part of size 4
      if it is split into parts of sizes 2, 4 and the rest.
  """
  groups: dict[Any, list[int]] = {}
  for device, place in enumerate(np.ndindex(*sizes.values())):
    rest = dict(zip(sizes, place, strict=True))
    for name, before, part in axes:
      size = int(part or sizes[name])
      stride = sizes[name] // (int(before or 1) * size)
      rest[name] -= rest[name] // stride % size * stride
    groups.setdefault(tuple(rest.values()), []).append(device)
  return list(groups.values())
