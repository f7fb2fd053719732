"""One run, from configuration to summary."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train import tasks
from train.config.schema import Config
from train.distributed import agreement
from train.distributed import cluster
from train.distributed import fingerprint
from train.distributed import preemption
from train.distributed import processes
from train.distributed import watchdog
from train.run import checkpoint
from train.run import diagnosis
from train.run import job as job_lib
from train.run import json_files
from train.run import metrics
from train.run import optimizer
from train.run import progress
from train.run import report
from train.run import workdir as workdir_lib


def run(settings: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains, or continues what was begun in `workdir`.

  Returns:
    What summary.json holds.

  Raises:
    ValueError: if the configuration, the data, the devices and what lies in
      `workdir` do not fit together.
    FloatingPointError: if gradients are not finite for many steps in a row.
  """
  limit = settings.distributed.stall_timeout
  with watchdog.Watchdog(limit, processes.index) as watch:
    mesh = cluster.start(settings)
    with workdir_lib.claimed(workdir):
      return _claimed_run(settings, workdir, mesh, watch)


def _claimed_run(settings, workdir, mesh, watch):
  """The run, in a folder that no other process uses."""
  with agreement.together():
    task = tasks.load(settings)
  agreement.check(data=task.description, jax=jax.__version__)
  watch.saw('reading the data')
  job = job_lib.prepare(settings, mesh, task)
  agreement.check(parameters=fingerprint.of(job.fresh.params))
  watch.saw('compiling the step')
  # Checkpoints are complete before a signal may end the process.
  with (
    preemption.Preemption() as stop,
    checkpoint.Checkpoints(
      workdir / 'checkpoints',
      settings,
      task.description,
      mesh,
      cluster.WORKER_AXIS,
      job.plan.is_linear,
    ) as checkpoints,
  ):
    return _run(settings, workdir, job, checkpoints, stop, watch)


def _run(settings, workdir, job, checkpoints, stop, watch):
  """Everything from the last checkpoint on."""
  now = checkpoints.latest(job.fresh)
  agreement.check(resumed={'step': now.step, **now.progress})
  _write_config(settings, workdir)
  batches = job.task.train(
    settings.batch_size, jax.process_index(), jax.process_count()
  )
  if now.progress['data']:
    batches.set_state(now.progress['data'])
  bar = progress.Bar(settings.steps, now.step, processes.is_main())
  bar.say(_introduction(settings, job, now))
  with (
    bar,
    metrics.Metrics(
      workdir, now.step, settings.log.tensorboard, processes.is_main()
    ) as journal,
    processes.patience(settings.distributed.heartbeat_timeout),
  ):
    now = _loop(
      settings, job, now, batches, checkpoints, journal, bar, stop, watch
    )
  summary = _summary(settings, job, now, journal)
  if processes.is_main():
    name = settings.compression.method
    with workdir_lib.writing(workdir):
      report.write_summary(workdir, summary)
      report.draw_curves(workdir / 'loss.png', name, journal.lines)
    bar.say(report.paragraph(summary, journal.lines, workdir))
  return summary


def _loop(settings, job, now, batches, checkpoints, journal, bar, stop, watch):
  """The remaining steps; returns where they led."""
  due = lambda every, step: (
    step == settings.steps or (every and step % every == 0)
  )
  clock = progress.Clock(now.progress['seconds'], now.step)
  loss, seen = None, diagnosis.Diagnosis(now.progress['diagnostics'])
  while now.step < settings.steps:
    # One step is computed while the next is prepared, never more: XLA's CPU
    # client stops for ever when virtual devices get too many steps ahead.
    previous, (now, loss) = loss, _advance(job, now, batches, seen)
    jax.block_until_ready(previous)
    watch.saw(f'step {now.step}')
    bar.advance(now.step)
    if due(settings.log.every, now.step):
      line = _measure(settings, job, now, float(loss), clock)
      journal.write(now.step, **line, **seen.line())
      bar.show(journal.lines[-1])
      _stop_if_broken(now)
    if due(settings.evaluation.every, now.step):
      with clock.stopped_after(loss):
        journal.write(now.step, **_evaluate(job, now, watch))
      bar.show(journal.lines[-1])
      if now.step == settings.steps:
        _check_score(journal.last('eval_loss'))
    asked_to_stop = stop.due(now.step)
    if asked_to_stop or due(settings.checkpoint.every, now.step):
      with clock.stopped_after(loss):
        _stop_if_broken(now)  # A run can resume from every checkpoint.
        _check_finite(now)
        now.progress['skipped'] = _skipped(now)
        now.progress['seconds'] = clock.seconds
        now.progress['diagnostics'] = seen.state()
        now.progress['checkpoint_bytes'] += job.traffic.save_bytes
        now = checkpoints.save(now)
        watch.saw(f'the checkpoint after step {now.step}')
    if asked_to_stop and now.step < settings.steps:
      raise preemption.Preempted(f'Stopped after step {now.step}, as asked.')
  return now


def _advance(job, now, batches, seen):
  """One optimizer step; the loss stays on the device."""
  params, opt_state, loss = job.step(
    now.params, now.opt_state, job.place(next(batches))
  )
  # A skipped step does not count for the phases.
  counted = now.step - now.progress['skipped']
  if job.diagnosed:
    loss, diagnostics = loss
    seen.add(job.plan.phase_at(counted), diagnostics)
  was = now.progress
  done = was | {
    'data': batches.get_state(),
    'bytes_sent': was['bytes_sent'] + job.traffic.step_bytes(counted),
    'dense_bytes': was['dense_bytes'] + job.traffic.dense_bytes,
  }
  return checkpoint.Snapshot(now.step + 1, params, opt_state, done), loss


def _measure(settings, job, now, loss, clock) -> dict[str, Any]:
  """A line of metrics for the step that was just taken."""
  units = settings.batch_size * job.task.units_per_example
  rate = clock.lap(now.step)
  now.progress['skipped'] = skipped = _skipped(now)
  return {
    'loss': loss,
    'learning_rate': float(job.schedule(now.step - 1 - skipped)),
    'seconds': clock.seconds,
    f'{job.task.unit}_per_second': rate * units,
    **_bytes(now),
    'skipped_steps': skipped,
  }


def _evaluate(job, now, watch) -> dict[str, Any]:
  """A line of metrics with the score on the held-out examples."""
  each = lambda: watch.saw(f'a batch of the evaluation after step {now.step}')
  score = job.evaluate(now.params, each)
  return {
    **{f'eval_{name}': value for name, value in score.items()},
    **_bytes(now),
  }


def _bytes(now) -> dict[str, int]:
  """What was sent so far, and what dense steps would have sent."""
  return {key: now.progress[key] for key in ('bytes_sent', 'dense_bytes')}


def _skipped(now) -> int:
  """Steps so far whose gradients were not finite."""
  return int(optax.tree.get(now.opt_state, 'total_notfinite'))


def _stop_if_broken(now) -> None:
  row = int(optax.tree.get(now.opt_state, 'notfinite_count'))
  if row >= optimizer.MAX_SKIPPED_IN_A_ROW:
    raise FloatingPointError(
      f'The gradients of the last {row} steps before step {now.step} were not'
      ' finite: lower optimizer.learning_rate, or look at the data.'
    )


@jax.jit
def _all_finite(tree) -> jax.Array:
  finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack(finite))


def _check_finite(now) -> None:
  """Raises for parameters that an update of finite gradients has broken."""
  if not _all_finite(now.params):
    raise FloatingPointError(
      f'The parameters after step {now.step} must be finite, got NaN or'
      ' infinity: lower optimizer.learning_rate, or use other settings of the'
      ' optimizer.'
    )


def _check_score(loss: float) -> None:
  """Raises for a run that ends without a held-out loss."""
  if not math.isfinite(loss):
    raise FloatingPointError(
      f'The held-out loss after the last step must be finite, got {loss}:'
      ' lower optimizer.learning_rate, or look at the data.'
    )


def _summary(settings, job, now, journal) -> dict[str, Any]:
  steps = now.step
  sent, dense = _bytes(now).values()
  return {
    'steps': steps,
    'final_loss': journal.last('loss'),
    **{f'final_{x}': journal.last(x) for x in journal.names('eval_')},
    'compressor': settings.compression.method,
    'num_workers': job.workers,
    'bytes_sent': sent,
    'dense_bytes': dense,
    'checkpoint_bytes': now.progress['checkpoint_bytes'],
    'bytes_per_step': sent / steps,
    'dense_bytes_per_step': dense / steps,
    'compression': dense / sent if sent else 1.0,
    'seconds': journal.last('seconds'),
  }


def _introduction(settings, job, now) -> str:
  """What will be trained, on what, and what each step will send."""
  lines = [
    job.task.introduction,
    f'{sum(x.size for x in jax.tree.leaves(now.params)):,} parameters,'
    f' {job.workers} workers on {jax.devices()[0].device_kind},'
    f' {settings.compression.method} before {settings.optimizer.name}',
    '',
    str(job.plan),
    '',
    job.traffic.describe(),
  ]
  compression = settings.compression
  if unread := compression.unread():
    values = (f'{key}={getattr(compression, key)!r}' for key in unread)
    lines.append(f'Not used by {compression.method}: {", ".join(values)}.')
  if now.step:
    lines.append(f'Continuing after step {now.step}.')
  return '\n'.join(lines)


def _write_config(settings: Config, workdir: pathlib.Path) -> None:
  if processes.is_main():
    path = workdir / 'config.json'
    text = json_files.dumps(dataclasses.asdict(settings), indent=2)
    with workdir_lib.writing(path):
      json_files.write(path, f'{text}\n')
