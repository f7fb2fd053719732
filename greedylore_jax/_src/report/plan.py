"""What a configuration will send and keep, computed before anything runs."""

import collections
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax

from greedylore_jax._src import checks as _checks
from greedylore_jax._src.engine import feedback as _feedback
from greedylore_jax._src.engine import leaf as _leaves
from greedylore_jax._src.engine import policy as _policy
from greedylore_jax._src.engine import schedule as _schedule
from greedylore_jax._src.report import plan_table as _plan_table
from greedylore_jax._src.wire import transport as _transport


@dataclasses.dataclass(frozen=True)
class LeafPlan:
  """What one leaf sends and keeps, in bytes per worker.

  Attributes:
    path: its place in the parameters, 'blocks/0/attention/query'.
    shape: its shape.
    how: 'k x a x b' for compressed matrices, else why it is dense.
    compressed: whether it is.
    dense_bytes: of the leaf itself, which a dense step would send; 0 if it is
      frozen.
    sent: phase -> bytes in such a step; with `stagger`, those of its refresh
      are only in the sums of the `Plan`.
    error_bytes: of its error, one copy.
    memory_bytes: of the compressor's memory.
    gathered: in which kinds of steps the devices of a worker, over which it
      lies spread, hand each other whole matrices of it: 'every step',
      'refreshes', or ''. That costs time and memory, not bytes between workers.
  """

  path: str
  shape: tuple[int, ...]
  how: str
  compressed: bool
  dense_bytes: int
  sent: dict[str, int]
  error_bytes: int
  memory_bytes: int
  gathered: str


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a worker sends per step and keeps, in bytes; `print` it for a table.

  Bytes are payloads of all-reduces: a ring of N workers puts 2 (N - 1) / N
  times that onto each worker's link. Of an all-gather, N / 2 times what a
  worker puts in counts, as that takes the same time.

  Attributes:
    leaves: one `LeafPlan` per leaf.
    rounds: phase -> the collectives of such a step, one (kind, dtype name,
      numbers per worker) per round and dtype, in order.
    num_workers: N.
    devices_per_worker: each of which sends an equal part of every message.
    schedule: which phase comes when.
    is_linear: whether a checkpoint holds one mean error, for any number of
      workers, or (False) those of all workers (see `collapse`).
  """

  leaves: list[LeafPlan]
  rounds: dict[str, list[_transport.Sent]]
  num_workers: int
  devices_per_worker: int
  schedule: _schedule.Schedule
  is_linear: bool

  @property
  def dense_bytes(self) -> int:
    """Bytes per step if nothing were compressed."""
    return sum(leaf.dense_bytes for leaf in self.leaves)

  def bytes_in(self, phase: str) -> int:
    """Bytes of a step in this phase; see `rounds` for the phases there are."""
    return sum(_payload(x, self.num_workers) for x in self.rounds[phase])

  def phase_at(self, step: int) -> str:
    """The phase of a step, counted from 0."""
    return self.schedule.at(step)

  def bytes_after(self, steps: int) -> int:
    """Bytes of the first `steps` steps together."""
    phases = collections.Counter(map(self.phase_at, range(steps)))
    return sum(n * self.bytes_in(phase) for phase, n in phases.items())

  @property
  def bytes_per_step(self) -> float:
    """Average bytes per step in the long run: warm-up left out."""
    phases = self.lasting_phases()
    return sum(self.bytes_in(x) * share for x, share in phases.items())

  def lasting_phases(self) -> dict[str, float]:
    """The share of steps of each phase in the long run."""
    return self.schedule.lasting()

  @property
  def ring_factor(self) -> float:
    """Bytes on each worker's link per byte of payload, in a ring of them."""
    return 2 * (self.num_workers - 1) / self.num_workers

  @property
  def peak_bytes(self) -> int:
    """Bytes of the step that sends most."""
    return max(self.bytes_in(phase) for phase in self.rounds)

  @property
  def state_bytes(self) -> int:
    """Memory per worker that compression adds: one error and the memory."""
    return sum(x.error_bytes + x.memory_bytes for x in self.leaves)

  def __str__(self) -> str:
    tables = _plan_table.leaf_table(self), _plan_table.step_table(self)
    lines = [*tables[0], '', *tables[1]]
    if self.compresses_nothing:
      lines += ['', 'Nothing is compressed: no matrix would shrink.']
    return '\n'.join(lines)

  @property
  def compresses_nothing(self) -> bool:
    """Whether a method was asked for that no matrix would profit from."""
    small = any(x.how.startswith(_policy.TOO_SMALL) for x in self.leaves)
    return small and not any(x.compressed for x in self.leaves)


def plan(
  compressor: _policy.Compressors,
  params: Any,
  *,
  num_workers: int = 1,
  devices_per_worker: int = 1,
  start_step: int = 0,
  error_feedback: _feedback.Kind = True,
  min_compression_rate: float = 1.0,
  weight_dimension_numbers: Any = None,
  error_dtype: Any = None,
  factor_dtype: Any = None,
  stagger: bool = False,
  share_decompositions: bool = False,
) -> Plan:
  """What `compress_gradients` with the same arguments will send and keep.

  Nothing is written down per method: the generators that send are traced, so
  the plan equals the compiled program number by number (see `collectives`).

  Args:
    compressor: the method, such as `GreedyLore(rank=32)`, or a list of
      (pattern, method); `Dense()` is the baseline.
    params: the parameters, arrays or `jax.ShapeDtypeStruct`s (gradients are
      taken to have the same dtypes, and the same sharding).
    num_workers: N, for predictions about the network.
    devices_per_worker: over which parameters may lie spread, by axes of the
      mesh that are not the workers'. Messages that do not divide are filled up.
    start_step: this and the rest as for `compress_gradients`.
    error_feedback: see there.
    min_compression_rate: see there.
    weight_dimension_numbers: see there.
    error_dtype: see there.
    factor_dtype: see there.
    stagger: see there.
    share_decompositions: see there.

  Returns:
    A `Plan`.

  Raises:
    ValueError, TypeError: as `compress_gradients`.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> params = {'w': jnp.ones((64, 256)), 'b': jnp.ones(256)}
    >>> p = gl.plan(gl.GreedyLore(rank=4, probes=1), params, num_workers=8)
    >>> p.dense_bytes, p.bytes_in('compress')
    (66560, 5376)
    >>> [tuple(sent) for sent in p.rounds['compress']]
    [('all-reduce', 'float32', 320), ('all-reduce', 'float32', 1024)]
  """
  _checks.check_integer('num_workers', num_workers)
  _checks.check_integer('devices_per_worker', devices_per_worker)
  policy = _policy.Policy(
    compressor,
    start_step=start_step,
    error_feedback=error_feedback,
    min_compression_rate=min_compression_rate,
    weight_dimension_numbers=weight_dimension_numbers,
    error_dtype=error_dtype,
    factor_dtype=factor_dtype,
    stagger=stagger,
    share_decompositions=share_decompositions,
  )
  leaves = policy.leaves(params)
  schedule = policy.schedule(leaves)
  messages = {
    phase: [
      policy.messages(kind, leaf, num_workers, devices_per_worker)
      for kind, leaf in _steps(schedule, phase, leaves)
    ]
    for phase in schedule.phases
  }
  sent = lambda i: {
    phase: sum(_payload(x, num_workers) for x in of_leaves[i])
    for phase, of_leaves in messages.items()
  }
  return Plan(
    [
      _leaf_plan(policy, leaf, sent(i), x)
      for i, (leaf, x) in enumerate(
        zip(leaves, jax.tree.leaves(params), strict=True)
      )
    ],
    {phase: _packed(of_leaves) for phase, of_leaves in messages.items()},
    num_workers,
    devices_per_worker,
    schedule,
    policy.is_linear(leaves),
  )


def _steps(schedule, phase, leaves) -> list[tuple[str, _leaves.Leaf]]:
  """What leaves do in a phase; last the one that is refreshed besides."""
  besides = [(_schedule.REFRESH, leaves[i]) for i in schedule.members(phase)]
  return [
    *((_policy.kind(schedule, phase, leaf), leaf) for leaf in leaves),
    *besides[:1],
  ]


def _payload(sent: _transport.Sent, num_workers: int) -> int:
  """Bytes of a message, as those of an all-reduce that takes as long."""
  gathered = 'gather' in sent.kind
  return sent.bytes * max(num_workers, 2) // 2 if gathered else sent.bytes


def _packed(
  of_leaves: Sequence[list[_transport.Sent]],
) -> list[_transport.Sent]:
  """Messages per leaf as they are packed: one per round, kind and dtype."""
  packed = []
  for i in range(max(map(len, of_leaves), default=0)):
    sizes: collections.Counter[tuple[str, str]] = collections.Counter()
    for messages in of_leaves:
      if i < len(messages):
        sizes[messages[i].kind, messages[i].dtype] += messages[i].size
    packed += [
      _transport.Sent(kind, dtype, size)
      for (kind, dtype), size in sorted(sizes.items(), reverse=True)
    ]
  return packed


def _leaf_plan(policy, leaf, sent, x) -> LeafPlan:
  error, memory = policy.state_shapes(leaf)
  kept = lambda tree: sum(map(_bytes, jax.tree.leaves(tree)))
  return LeafPlan(
    leaf.path,
    leaf.shape,
    leaf.reason,
    leaf.matrices is not None,
    0 if leaf.frozen else _bytes(leaf),
    sent,
    kept(error),
    kept(memory),
    _gathered(leaf, x),
  )


def _gathered(leaf: _leaves.Leaf, x: Any) -> str:
  """When whole matrices of a leaf are needed that lies spread as `x` does."""
  spec = getattr(getattr(x, 'sharding', None), 'spec', ())
  if leaf.matrices is None or not any(spec):
    return ''
  whole = getattr(leaf.compressor, 'needs_whole', ())
  if 'compress' in whole or not leaf.matrices.stays_spread(spec):
    return 'every step'
  return 'refreshes' if 'refresh' in whole else ''


def _bytes(x: Any) -> int:
  return x.size * x.dtype.itemsize
