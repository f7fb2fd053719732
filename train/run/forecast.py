"""Predicts the steps of a run on links of several rates: does it pay?

Bytes are those of the plan. The computation is measured with one worker on one
of this machine's devices, or with mesh.fsdp on the devices of a worker.
"""

from collections.abc import Callable, Sequence
import dataclasses
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

import greedylore_jax as gl
from train import tasks
from train.config import machines
from train.config.schema import Config, Data, Local
from train.distributed import cluster
from train.run import build, optimizer

_GBITS = 0.1, 1, 10, 100
_GBITS_OF_ROUNDS = 0.001, 0.01, *_GBITS
_SHARE = 0.95  # Of a link's rate; headers take the rest.
_LATENCY = 1e-4
_TURNS = 3
_STEPS = 3  # Of a phase in a turn; the first warms up.


def describe(config: Config) -> str:
  """The plan, one worker's seconds and memory, and steps on several links.

  Raises:
    ValueError: if configuration, data and devices do not fit together.
  """
  alone = of_one_worker(config)
  mesh = cluster.start(alone)
  workers = config.mesh.replica or jax.device_count() // mesh.size
  if config.batch_size % workers:
    raise ValueError(
      f'batch_size must be a multiple of {workers} workers, got'
      f' {config.batch_size}.'
    )
  alone = dataclasses.replace(alone, batch_size=config.batch_size // workers)
  task = _load(alone)
  print('Compiling and timing one worker ...', file=sys.stderr, flush=True)
  dense, compressed = measure([with_dense(alone), alone], mesh, task)
  if config.local.is_on:  # A local step computes what a dense one does.
    (seconds,) = dense.seconds.values()
    of_phases = compressed.seconds | {'local': seconds}
    compressed = dataclasses.replace(compressed, seconds=of_phases)
  plan = optimizer.plan(config, task, compressed.params, workers, mesh.size)
  return '\n'.join(
    [
      task.introduction,
      '',
      str(plan),
      *optimizer.late_start(config),
      '',
      *_worker_lines(dense, compressed, alone.batch_size, mesh),
      '',
      *_link_lines(plan, dense, compressed),
      *(_round_lines(config, plan, compressed) if plan.is_local else ()),
    ]
  )


def _load(config: Config) -> tasks.Task:
  """The task; its errors say how to plan without data that are not there."""
  try:
    return tasks.load(config)
  except (ValueError, OSError) as error:
    data, usual = config.data, Data()
    keys = 'source', 'stream', 'max_bytes', 'tokenizer'
    options = [
      f'--data.{key} {getattr(usual, key)}'
      for key in keys
      if getattr(data, key) != getattr(usual, key)
    ]
    own_files = data.files or data.held_out
    if config.model.name != 'llama' or own_files or not options:
      raise
    raise ValueError(
      f'{error} To plan without these files, with a vocabulary of 256 bytes,'
      f' add {" ".join(options)}.'
    ) from None


def of_one_worker(config: Config) -> Config:
  """The run of a single worker, without communication or rounds."""
  return dataclasses.replace(
    config,
    local=Local(),
    mesh=dataclasses.replace(config.mesh, replica=1),
    distributed=machines.Distributed(),
    batch_size=config.mesh.fsdp * config.accumulate_steps,
    log=dataclasses.replace(config.log, diagnostics=False),
  )


def with_dense(config: Config) -> Config:
  """The same run without compression."""
  changed = dataclasses.replace(
    config.compression, method='dense', embedding_method=None
  )
  return dataclasses.replace(config, compression=changed)


@dataclasses.dataclass(frozen=True)
class Measured:
  """What one worker needs.

  Attributes:
    params: the shapes and shardings of the parameters.
    seconds: of a step, by phase.
    memory: bytes of a device, at the peak of a step.
    added: bytes that compression adds to it, by the plan.
    build_seconds: to trace and compile a step, and to make the first state.
  """

  params: Any
  seconds: dict[str, float]
  memory: int
  added: int
  build_seconds: float


class Worker:
  """One worker of a run, which times its own steps."""

  def __init__(self, config: Config, mesh: jax.sharding.Mesh, task: tasks.Task):
    begin = time.perf_counter()
    job = build.job(config, mesh, task)
    self._build_seconds = time.perf_counter() - begin
    fresh = job.fresh.params, job.fresh.opt_state
    self._params = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      job.fresh.params,
    )
    self._places = jax.tree.map(lambda x: x.sharding, fresh)
    self._waiting = jax.device_get(fresh)
    self._step, self._plan = job.step, job.plan
    self._batch = job.place(next(task.train(config.batch_size, 0, 1)))
    self._seconds: dict[str, list[float]] = {}

  def take_turn(self) -> None:
    """Some steps of each phase, timed."""
    params, state = jax.device_put(self._waiting, self._places)
    for phase in self._plan.lasting_phases():
      at = next(i for i in range(2**31) if self._plan.phase_at(i) == phase)
      seconds = []
      for _ in range(_STEPS):
        state = _at(state, at)
        jax.block_until_ready((params, state))
        begin = time.perf_counter()
        params, state, loss = self._step(params, state, self._batch)
        jax.block_until_ready((params, state, loss))
        seconds.append(time.perf_counter() - begin)
      self._seconds.setdefault(phase, []).extend(seconds[1:])

  def measured(self) -> Measured:
    """The medians over all turns."""
    return Measured(
      params=self._params,
      seconds={x: statistics.median(s) for x, s in self._seconds.items()},
      memory=_peak(self._step.memory_analysis()),
      added=self._plan.state_bytes,
      build_seconds=self._build_seconds,
    )


def measure(
  runs: Sequence[Config],
  mesh: jax.sharding.Mesh,
  task: tasks.Task,
  *,
  turns: int = _TURNS,
  worker: Callable[..., Worker] = Worker,
) -> list[Measured]:
  """Takes some steps of every lasting phase, alternating between the runs.

  So other load on the machine affects all of them equally. The state of one run
  at a time is on the device; the others wait on the host. The mesh has the
  devices of one worker, `turns` is how often it alternates, and `worker` makes
  what takes the steps of a run.
  """
  workers = [worker(run, mesh, task) for run in runs]
  for _ in range(turns):
    for each in workers:
      each.take_turn()
  return [each.measured() for each in workers]


def _peak(memory: Any) -> int:
  """Bytes of a device that XLA says a step needs; 0 if it does not say."""
  if memory is None:
    return 0
  made = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes + memory.temp_size_in_bytes + made


def _at(state: Any, step: int) -> Any:
  """The state with all its counters as before that step."""

  def moved(path, x):
    if getattr(path[-1], 'name', '') != 'count':
      return x
    return jax.device_put(np.full_like(x, step), x.sharding)

  return jax.tree_util.tree_map_with_path(moved, state)


def _worker_lines(
  dense: Measured, compressed: Measured, examples: int, mesh: Any
) -> list[str]:
  """What was measured, in lines."""
  kind = jax.devices()[0].device_kind
  size = f'{mesh.size} x {kind}' if mesh.size > 1 else kind
  (of_dense,) = dense.seconds.values()
  of_phases = ', '.join(
    f'{phase} {1e3 * x:.4g} ms' + (' (as dense)' if phase == 'local' else '')
    for phase, x in compressed.seconds.items()
  )
  return [
    f'One worker with {examples} example{"s" * (examples != 1)} on {size},'
    f' measured: dense step {1e3 * of_dense:.4g} ms; {of_phases}.',
    f'Memory of a device at its peak: dense {dense.memory / 1e6:,.0f} MB,'
    f' compressed {compressed.memory / 1e6:,.0f} MB.',
  ]


def _link_lines(
  plan: gl.Plan, dense: Measured, compressed: Measured
) -> list[str]:
  """A line per link, and where it begins to pay."""
  (of_dense,) = dense.seconds.values()
  predict = lambda gbits: gl.predict(
    plan,
    bandwidth=_SHARE * gbits * 1e9 / 8,
    latency=_LATENCY,
    compute_seconds=of_dense,
    overhead_seconds={
      phase: max(x - of_dense, 0.0) for phase, x in compressed.seconds.items()
    },
  )
  lines = [
    f'Seconds of a step, predicted for a ring of {plan.num_workers},'
    f' {1e3 * _LATENCY:g} ms to a neighbor:',
    f'{"Gbit/s":>8}{"dense":>12}{"compressed":>12}{"worst":>12}{"":4}',
  ]
  for gbits in _GBITS_OF_ROUNDS if plan.is_local else _GBITS:
    x = predict(gbits)
    lines.append(
      f'{gbits:8g}{x.dense:12.4g}{x.average:12.4g}{x.worst:12.4g}'
      f'{x.dense / x.average:9.2f}x'
    )
  return [*lines, _verdict(8e-9 / _SHARE * predict(1).break_even)]


def _round_lines(
  config: Config, plan: gl.Plan, compressed: Measured
) -> list[str]:
  """What rounds of local steps send, and on which links steps wait."""
  local, steps = config.local, config.steps
  by_rule = local.qsr_alpha is not None
  computing = sum(
    share * compressed.seconds[phase]
    for phase, share in plan.lasting_phases().items()
  )
  kilobytes = lambda count: f'{count / 1e3:,.1f} kB'
  at_most = 'at most ' if by_rule else ''
  bits = 8 * plan.ring_factor * plan.bytes_per_step
  return [
    f'Rounds of {"at least " if by_rule else ""}{local.every} steps send'
    f' {at_most}{kilobytes(plan.bytes_per_step)} per step on average, and'
    f' {kilobytes(plan.peak_bytes)} in the step that sends most. This run of'
    f' {steps} steps sends {kilobytes(plan.bytes_after(steps) / steps)} per'
    ' step.',
    f'Sending takes longer than computing below {at_most}'
    f'{1e-6 / _SHARE * bits / computing:.3g} Mbit/s: steps then wait even if'
    ' the two overlap.',
  ]


def _verdict(gbits: float) -> str:
  if gbits == 0:
    return 'Compression is slower on any link.'
  if gbits == float('inf'):
    return 'Compression is faster on any link.'
  return f'Compression is faster below {gbits:.3g} Gbit/s.'
