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
from train.run import checkpoint
from train.run import evaluation
from train.run import optimizer
from train.run import traffic

_AXIS = cluster.WORKER_AXIS


@dataclasses.dataclass(frozen=True)
class Job:
  """The compiled parts of a run."""

  task: tasks.Task
  fresh: checkpoint.Snapshot
  step: jax.stages.Compiled
  evaluate: evaluation.Evaluate
  place: Callable[[Any], Any]
  schedule: optax.Schedule
  plan: gl.Plan
  traffic: traffic.Traffic
  diagnosed: bool
  workers: int


def prepare(settings: Config, mesh: jax.sharding.Mesh, task: tasks.Task) -> Job:
  """Builds and compiles everything before the first step."""
  workers = mesh.shape[_AXIS]
  tx, schedule = optimizer.build(settings, _AXIS, task)
  init = lambda: task.init(settings.seed)
  shapes = jax.eval_shape(init)
  shardings = cluster.shardings(shapes, task.partition_specs(shapes), mesh)
  params = task.start(jax.jit(init, out_shardings=shardings)())
  opt_state = gl.init_state(tx, params, mesh, axis_name=_AXIS)
  planned = optimizer.plan(
    settings.compression, task, params, workers, mesh.size // workers
  )
  diagnosed = traffic.is_diagnosed(planned, settings.log.diagnostics)
  step = gl.make_train_step(
    task.loss,
    tx,
    mesh,
    axis_name=_AXIS,
    accumulate_steps=settings.accumulate_steps,
    diagnose=diagnosed,
  )
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (settings.batch_size, *x.shape), x.dtype, sharding=cluster.rows_on(mesh)
    ),
    task.example(),
  )
  compiled = step.lower(params, opt_state, batch).compile()
  start: dict[str, Any] = {
    'data': None,
    'bytes_sent': 0,
    'dense_bytes': 0,
    'checkpoint_bytes': 0,
    'seconds': 0.0,
    'skipped': 0,
    'diagnostics': [],
  }
  return Job(
    task=task,
    fresh=checkpoint.Snapshot(0, params, opt_state, start),
    step=compiled,
    place=lambda batch: cluster.divide(mesh, batch),
    evaluate=evaluation.build(settings, mesh, task),
    schedule=schedule,
    plan=planned,
    traffic=traffic.Traffic(planned, compiled, diagnosed, _AXIS),
    diagnosed=diagnosed,
    workers=workers,
  )
