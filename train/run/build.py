"""The compiled parts of a run."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import optax

import greedylore_jax as gl
from train import tasks
from train.config.schema import Config
from train.distributed import cluster
from train.run import evaluation, optimizer, traffic
from train.run.checkpoint import Progress, Snapshot

_AXIS = cluster.WORKER_AXIS


@dataclasses.dataclass(frozen=True)
class Job:
  """A run that is compiled and has not begun."""

  task: tasks.Task
  fresh: Snapshot
  """The state before the first step."""
  step: jax.stages.Compiled
  """From parameters, optimizer state and batch to the first two and the loss;
  if `diagnosed`, to the loss and `gl.Diagnostics`."""
  evaluate: evaluation.Evaluate
  place: Callable[[Any], Any]
  """Shards a batch of this process over its devices."""
  schedule: optax.Schedule
  plan: gl.Plan
  traffic: traffic.Traffic
  diagnosed: bool
  workers: int


def check_elastic(config: Config, job: Job) -> None:
  """Raises if the run has to be able to resume on fewer workers and cannot."""
  least = config.distributed.min_processes
  averages = job.plan.is_elastic or job.plan.is_local
  if least is None or averages or config.checkpoint.local:
    return
  raise ValueError(
    f'--min_processes {least} needs a method whose errors can be averaged, so'
    ' that a run resumes on fewer workers; those of compression.method'
    f' {config.compression.method!r} cannot: use another method, or leave out'
    ' --min_processes.'
  )


def job(config: Config, mesh: jax.sharding.Mesh, task: tasks.Task) -> Job:
  """Builds and compiles everything before the first step."""
  workers = mesh.shape[_AXIS]
  tx, schedule = optimizer.build(config, _AXIS, task)
  init = lambda: task.init(config.seed)
  shapes = jax.eval_shape(init)
  shardings = cluster.shardings(shapes, task.partition_specs(shapes), mesh)
  params = task.start(jax.jit(init, out_shardings=shardings)())
  opt_state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  plan = optimizer.plan(config, task, params, workers, mesh.size // workers)
  diagnosed = traffic.is_diagnosed(plan, config.log.diagnostics)
  step = gl.make_train_step(
    task.loss,
    tx,
    mesh,
    axis_name=_AXIS,
    accumulate_steps=config.accumulate_steps,
    diagnose=diagnosed,
  )
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (config.batch_size, *x.shape), x.dtype, sharding=cluster.rows_on(mesh)
    ),
    task.example(),
  )
  compiled = step.lower(params, opt_state, batch).compile()
  return Job(
    task=task,
    fresh=Snapshot(0, params, opt_state, Progress()),
    step=compiled,
    evaluate=evaluation.build(config, mesh, task),
    place=lambda batch: cluster.divide(mesh, batch),
    schedule=schedule,
    plan=plan,
    traffic=traffic.Traffic(plan, compiled, diagnosed, _AXIS),
    diagnosed=diagnosed,
    workers=workers,
  )
