"""What a configuration will send and keep, computed before anything runs."""

import collections
from collections.abc import Sequence
import dataclasses
import re
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.engine import fragments as fragments_lib
from greedylore_jax._src.engine import policy as policy_lib
from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf
from greedylore_jax._src.engine.policy import Compressors, Policy, PolicyOptions
from greedylore_jax._src.engine.round_length import Length, Rule, SelSync
from greedylore_jax._src.engine.schedule import (
  COMPRESS,
  LOCAL,
  MOMENTS,
  REFRESH,
  LocalSchedule,
  Schedule,
)
from greedylore_jax._src.report import plan_table
from greedylore_jax._src.types import Function, Params, Phase, Shape
from greedylore_jax._src.wire import worker_axes
from greedylore_jax._src.wire.recording import QUANTIZED, Message

_FEWEST = 2  # Workers between which anything is sent.


@dataclasses.dataclass(frozen=True)
class LeafPlan:
  """What one leaf sends and keeps, in bytes per worker.

  Attributes:
    path: its place in the parameters, 'blocks/0/attention/query'.
    shape: its shape.
    how: 'k x a x b' for compressed matrices, otherwise why it is dense.
    compressed: whether it is.
    dense_bytes: of the leaf itself, which a dense step would send; 0 if it is
      frozen.
    sent: phase -> bytes in such a step; with `stagger`, those of its refresh
      are only in the sums of the `Plan`.
    error_bytes: of its error, one copy.
    state_bytes: of its compressor state.
    gathered: in which phases the devices of a worker, over which it is sharded,
      gather whole matrices of it: 'all phases', 'refreshes' or ''. That costs
      time and memory, not bytes between workers.
  """

  path: str
  shape: Shape
  how: str
  compressed: bool
  dense_bytes: int
  sent: dict[str, int]
  error_bytes: int
  state_bytes: int
  gathered: str

  @property
  def kind(self) -> str:
    """The path with stars for the numbers of layers, not for 'conv1d'."""
    return re.sub(r'\d+(?=/|$)', '*', self.path)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a worker sends per step and keeps, in bytes; `print` it for a table.

  Bytes are payloads of all-reduces: a ring of N workers puts 2 (N - 1) / N
  times that onto each worker's link. Of an all-gather, N / 2 times what a
  worker puts in counts, as that takes the same time.

  Attributes:
    leaves: one `LeafPlan` per leaf.
    rounds: phase -> the collectives of such a step, one (kind, dtype name,
      numbers per worker) per round and dtype, in order. With `local_updates`
      some steps send what several entries say, see `phase_at`.
    num_workers: N.
    devices_per_worker: each of which sends an equal part of every message.
    schedule: which phase comes when.
    is_linear: whether a checkpoint holds one mean error, or (False) those of
      all workers (see `collapse`).
    local_bytes: memory per worker for its own parameters, and with a `delay`
      for what is on its way; 0 without `local_updates`.
    total_steps: the length of the run, if it was given.
  """

  leaves: list[LeafPlan]
  rounds: dict[str, list[Message]]
  num_workers: int
  devices_per_worker: int
  schedule: Schedule | LocalSchedule
  is_linear: bool
  local_bytes: int = 0
  total_steps: int | None = None

  @property
  def is_local(self) -> bool:
    """Whether there are local steps, see `local_updates`."""
    return LOCAL in self.rounds

  @property
  def varies(self) -> bool:
    """Whether rounds may be longer than the averages say, which are bounds."""
    return self.schedule.varies

  @property
  def is_elastic(self) -> bool:
    """Whether a checkpoint resumes exactly on any number of workers."""
    return self.is_linear and not self.is_local

  @property
  def dense_bytes(self) -> int:
    """Bytes per step if nothing were compressed."""
    return sum(leaf.dense_bytes for leaf in self.leaves)

  def messages_in(self, phase: str) -> list[Message]:
    """The collectives of a step in this phase, in order."""
    parts = phase.split('+')
    if unknown := [x for x in parts if x not in self.rounds]:
      raise ValueError(
        f'phase must be one of {", ".join(self.rounds)}, or several joined by'
        f' +, got {unknown[0]!r}.'
      )
    return [x for part in parts for x in self.rounds[part]]

  def bytes_in(self, phase: str) -> int:
    """Bytes of a step in this phase, an entry of `rounds` or several."""
    return sum(_payload(x, self.num_workers) for x in self.messages_in(phase))

  def phase_at(self, step: int) -> str:
    """The phase of a step, counted from 0; entries of `rounds` joined by +.

    With `SelSync`, which decides while training, any step may end a round, and
    so do all of them here.
    """
    checks.check_integer('step', step, at_least=0)
    return self.schedule.at(step)

  def phase_after_round(self, rounds: int) -> str:
    """The phase of a step with which the number of ended rounds became this.

    For `SelSync`, where `phase_at` cannot say.
    """
    checks.check_integer('rounds', rounds)
    return self.schedule.of_round(rounds - 1)

  @property
  def is_exact(self) -> bool:
    """Whether `phase_at` is exact; else any step may send less than it says."""
    return self.schedule.is_known

  def bytes_after(self, steps: int) -> int:
    """Bytes of the first `steps` steps together."""
    checks.check_integer('steps', steps, at_least=0)
    phases = collections.Counter(map(self.schedule.at, range(steps)))
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
    return max(map(self.bytes_in, self.schedule.names()))

  @property
  def state_bytes(self) -> int:
    """Memory per worker for errors, compressor states and `local_bytes`."""
    kept = sum(x.error_bytes + x.state_bytes for x in self.leaves)
    return kept + self.local_bytes

  def __str__(self) -> str:
    tables = plan_table.leaf_table(self), plan_table.step_table(self)
    lines = [*tables[0], '', *tables[1]]
    if self.compresses_nothing:
      lines += ['', 'Nothing is compressed: no matrix would shrink.']
    return '\n'.join(lines)

  @property
  def compresses_nothing(self) -> bool:
    """Whether a method was asked for that no matrix would profit from."""
    small = any(x.how.startswith(policy_lib.TOO_SMALL) for x in self.leaves)
    return small and not any(x.compressed for x in self.leaves)


def plan(
  compressor: Compressors,
  params: Params,
  *,
  num_workers: int = 1,
  devices_per_worker: int = 1,
  every: Length = 1,
  local_start_step: int = 0,
  total_steps: int | None = None,
  fragments: int = 1,
  delay: int = 0,
  average_moments: int = 0,
  inner: optax.GradientTransformation | None = None,
  **options: Unpack[PolicyOptions],
) -> Plan:
  """Computes what `compress_gradients` with the same arguments sends and keeps.

  No formula per method is involved: the generators that send are traced, so the
  plan equals the compiled program exactly (see `collectives`).

  Args:
    compressor: the method, such as `GreedyLore(rank=32)`, or a list of
      (pattern, method); `Dense()` is the baseline.
    params: the parameters, arrays or `jax.ShapeDtypeStruct`s. Gradients are
      assumed to have the same dtypes and the same sharding.
    num_workers: N. What is averaged has the same bytes for all N, up to
      padding; what is gathered grows with N. A single worker sends nothing, and
      its plan has the messages of two.
    devices_per_worker: over which parameters may be sharded, by axes of the
      mesh that are not the workers'. Messages that do not divide are padded.
    every: the steps in a round of `local_updates`, or its rule; 1 without it.
      `start_step` and update intervals then count rounds. With a rule, averages
      are those of its shortest rounds, an upper bound; `bytes_after` is exact.
    local_start_step: the `start_step` of `local_updates`.
    total_steps: that of `local_updates`. `print` then also shows the average
      over these steps.
    fragments: that of `local_updates`.
    delay: that of `local_updates`. It needs memory and sends nothing more.
    average_moments: that of `local_updates`; it needs `inner`.
    inner: the inner optimizer, whose state is averaged.
    **options: see `PolicyOptions`.

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
  checks.check_integer('num_workers', num_workers)
  checks.check_integer('devices_per_worker', devices_per_worker)
  checks.check_params(params)
  if average_moments and inner is None:
    raise TypeError(
      'plan needs the inner optimizer whose state average_moments sends, got'
      ' inner=None: pass inner=.'
    )
  policy = Policy.of(compressor, **options)
  counted = max(num_workers, _FEWEST)
  groups = fragments_lib.assign(params, fragments)
  parts = [
    _Part.of(
      policy,
      fragments_lib.take(params, members),
      num_workers=counted,
      devices=devices_per_worker,
    )
    for members in groups
  ]
  rule = Rule(every, local_start_step, total_steps)
  rule.check_delay(delay)
  is_local = rule.varies or rule.shortest > 1
  local = LocalSchedule([x.schedule for x in parts], rule, average_moments)
  rounds = {LOCAL: _flag(every)} if is_local else {}
  sent: dict[int, dict[str, int]] = {}
  for i, (part, members) in enumerate(zip(parts, groups, strict=True)):
    for phase, of_leaves in part.messages.items():
      name = local.part(i, phase)
      rounds[name] = _packed(of_leaves, counted, devices_per_worker)
      for j, messages in zip(members, of_leaves, strict=False):
        own = sent.setdefault(j, {LOCAL: 0} if is_local else {})
        own[name] = sum(_payload(x, num_workers) for x in messages)
  if average_moments:
    rounds[MOMENTS] = _moments(inner, params, devices_per_worker)
  arrays = jax.tree.leaves(params)
  leaves = dict(
    zip(
      (i for members in groups for i in members),
      (leaf for part in parts for leaf in part.leaves),
      strict=True,
    )
  )
  return Plan(
    leaves=[_leaf_plan(leaves[i], sent[i], arrays[i]) for i in sorted(leaves)],
    rounds=rounds,
    num_workers=num_workers,
    devices_per_worker=devices_per_worker,
    schedule=local if is_local else parts[0].schedule,
    is_linear=all(leaf.is_linear for leaf in leaves.values()),
    local_bytes=_local_bytes(arrays, delay) if is_local else 0,
    total_steps=total_steps,
  )


@dataclasses.dataclass(frozen=True)
class _Part:
  """What the leaves of one fragment send.

  Attributes:
    leaves: its leaves.
    schedule: of its rounds, or of the steps without local updates.
    messages: phase -> those of each leaf, and last, if refreshes are staggered,
      of the one that is refreshed in addition.
  """

  leaves: Sequence[Leaf]
  schedule: Schedule
  messages: dict[str, list[list[Message]]]

  @classmethod
  def of(
    cls, policy: Policy, params: Params, *, num_workers: int, devices: int
  ) -> '_Part':
    """Traces what is sent for these parameters."""
    leaves = policy.leaves(params)
    schedule = policy.schedule(leaves)
    messages = {
      phase: [
        leaf.messages(own, num_workers=num_workers, devices=devices)
        for own, leaf in _exchanged(schedule, phase, leaves)
      ]
      for phase in schedule.phases
    }
    return cls(leaves, schedule, messages)


def _flag(every: Length) -> list[Message]:
  """What every step sends so that workers agree on the end of a round."""
  if not isinstance(every, SelSync):
    return []
  return [Message('all-reduce', 'float32', 1)]


def _local_bytes(arrays: Sequence[Any], delay: int) -> int:
  """What `local_updates` keeps of each leaf: its delta, and what is in flight.

  A delta has at least float32. With a delay, there is another one that was
  sent, and the move that will arrive.
  """
  total = 0
  for x in arrays:
    delta = jnp.promote_types(x.dtype, jnp.float32).itemsize
    kept = 2 * delta + jnp.dtype(x.dtype).itemsize if delay else delta
    total += x.size * kept
  return total


def _moments(
  inner: optax.GradientTransformation | None, params: Params, devices: int
) -> list[Message]:
  """The floating-point numbers of the inner optimizer's state."""
  shapes = jax.eval_shape(inner.init, params) if inner else ()
  sizes: collections.Counter[str] = collections.Counter()
  for x in jax.tree.leaves(shapes):
    if jnp.issubdtype(x.dtype, jnp.floating):
      sizes[x.dtype.name] += devices * -(-x.size // devices)
  return [
    Message('all-reduce', dtype, size) for dtype, size in sorted(sizes.items())
  ]


def _exchanged(
  schedule: Schedule, phase: str, leaves: Sequence[Leaf]
) -> list[tuple[Phase, Leaf]]:
  """What leaves do in a phase; last the one that is refreshed in addition."""
  due = [(REFRESH, leaves[i]) for i in schedule.members(phase)[:1]]
  own: Function = lambda leaf: schedule.of_leaf(phase, leaf.update_interval)
  return [*((own(leaf), leaf) for leaf in leaves), *due]


def _payload(sent: Message, num_workers: int) -> int:
  """Bytes of a message, as those of an all-reduce that takes as long."""
  if sent.kind == 'all-gather':
    return sent.bytes * max(num_workers, _FEWEST) // 2
  return sent.bytes // 2 if sent.kind == 'all-to-all' else sent.bytes


def _packed(
  of_leaves: Sequence[list[Message]], num_workers: int, devices: int
) -> list[Message]:
  """Messages per leaf as they are packed: one per round, kind and dtype."""
  order: Function = lambda key: (key[0] == QUANTIZED, key[0] != 'all-reduce')
  packed = []
  for i in range(max(map(len, of_leaves), default=0)):
    sizes: collections.Counter[tuple[str, str]] = collections.Counter()
    for messages in of_leaves:
      if i < len(messages):
        sizes[messages[i].kind, messages[i].dtype] += messages[i].size
    for kind, dtype in sorted(sorted(sizes, reverse=True), key=order):
      message = Message(kind, dtype, sizes[kind, dtype])
      is_quantized = kind == QUANTIZED
      packed += (
        message.halves(num_workers, devices) if is_quantized else [message]
      )
  return packed


def _leaf_plan(leaf: Leaf, sent: dict[str, int], x: Any) -> LeafPlan:
  error, state = leaf.state_shapes()
  kept: Function = lambda tree: sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
  return LeafPlan(
    path=leaf.path,
    shape=leaf.shape,
    how=leaf.reason,
    compressed=isinstance(leaf, CompressedLeaf),
    dense_bytes=leaf.dense_bytes,
    sent=sent,
    error_bytes=kept(error),
    state_bytes=kept(state),
    gathered=_gathered(leaf, x),
  )


def _gathered(leaf: Leaf, x: Any) -> str:
  """When whole matrices are needed of a leaf that is sharded as `x` is."""
  sharding: Any = getattr(x, 'sharding', None)
  spec = getattr(sharding, 'spec', ())
  sizes = (
    sharding.mesh.shape[axis]
    for entry in spec
    for axis in worker_axes.names(entry)
  )
  if not isinstance(leaf, CompressedLeaf) or all(n == 1 for n in sizes):
    return ''
  needs_whole = leaf.compressor.needs_whole
  if needs_whole(COMPRESS) or not leaf.matrices.keeps_sharding(spec):
    return 'all phases'
  return 'refreshes' if needs_whole(REFRESH) else ''
