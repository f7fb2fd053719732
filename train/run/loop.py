"""One run, from its configuration to its summary."""

from collections.abc import Callable
import contextlib
import dataclasses
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import greedylore_jax as gl
from train import tasks
from train.config.schema import Config
from train.distributed import (
  agreement,
  cluster,
  equality,
  fingerprint,
  preemption,
  processes,
)
from train.distributed.watchdog import Watchdog
from train.run import (
  build,
  checkpoint,
  diagnostics,
  json_files,
  local_copies,
  lock,
  metrics,
  optimizer,
  paths,
  progress,
  report,
  traffic,
)
from train.run.checkpoint import Snapshot


class _Line(NamedTuple):
  """A line of metrics that waits for the mean of its loss."""

  step: int
  loss: jax.Array
  """A scalar, or one per worker."""
  values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Run:
  """What the steps of a run use."""

  config: Config
  job: build.Job
  checkpoints: checkpoint.Checkpoints | local_copies.LocalCopies
  journal: metrics.Metrics
  bar: progress.Bar
  stop: preemption.Preemption
  watch: Watchdog
  workers: equality.Comparison
  after_step: Callable[[Snapshot], None]

  def write(self, step: int, values: dict[str, Any]) -> None:
    """Writes and shows a line of metrics."""
    self.journal.write(step, **values)
    self.bar.show(self.journal.lines[-1])


def run(
  config: Config,
  workdir: pathlib.Path,
  *,
  after_step: Callable[[Snapshot], None] = lambda now: None,
  build_job: Callable[
    [Config, jax.sharding.Mesh, tasks.Task], build.Job
  ] = build.job,
  make_watchdog: Callable[[int, Callable[[], int]], Watchdog] = Watchdog,
) -> dict[str, Any]:
  """Trains from the last checkpoint in `workdir`, or from the beginning.

  Args:
    config: the configuration.
    workdir: the folder for everything that the run writes.
    after_step: called with the state after each step, once everything that
      is due after that step is written.
    build_job: compiles the run; another one may change the task before.
    make_watchdog: from `config.distributed.stall_timeout` and the index of
      this process to a watchdog.

  Returns:
    The content of summary.json.

  Raises:
    ValueError: if the configuration, the data, the devices and the content of
      `workdir` do not fit together.
    FloatingPointError: if gradients are not finite for many steps in a row.
    equality.Unequal: if the workers hold different parameters.
    processes.LostConnection: if a step failed, as when a process is gone.
    preemption.Preempted: after SIGTERM, once everything is saved.
  """
  with contextlib.ExitStack() as stack:
    watch = stack.enter_context(
      make_watchdog(config.distributed.stall_timeout, processes.index)
    )
    mesh = cluster.start(config)
    patience = processes.patience(config.distributed.heartbeat_timeout)
    stack.enter_context(patience)
    stack.enter_context(lock.claimed(workdir, config.checkpoint.local))

    with agreement.together():
      task = tasks.load(config)
    agreement.check(data=task.description, jax=jax.__version__)
    watch.saw('reading the data')

    job = build_job(config, mesh, task)
    agreement.check(parameters=fingerprint.of(job.fresh.params))
    watch.saw('compiling the step')
    build.check_elastic(config, job)

    # Checkpoints are complete before a signal may end the process.
    stop = stack.enter_context(preemption.Preemption())
    checkpoints = _opened(
      config, workdir, mesh, job.plan, data=task.description
    )
    stack.enter_context(checkpoints)
    now = checkpoints.latest(job.fresh)
    agreement.check(
      resumed={'step': now.step, **dataclasses.asdict(now.progress)}
    )

    is_main = processes.is_main()
    if is_main:
      json_files.write(workdir / paths.CONFIG, dataclasses.asdict(config))
    bar = progress.Bar(config.steps, now.step, shown=is_main)
    bar.say(report.introduction(config, job, now))
    journal = metrics.Metrics(
      workdir, now.step, writes=is_main, tensorboard=config.log.tensorboard
    )
    # A save that is pending would wait for a process that is gone.
    with bar, journal, processes.patience(config.distributed.heartbeat_timeout):
      running = _Run(
        config,
        job,
        checkpoints,
        journal,
        bar,
        stop,
        watch,
        equality.Comparison(mesh),
        after_step,
      )
      now = _loop(running, now)

    summary = report.summary(config, job, now, journal)
    if is_main:
      json_files.write(workdir / paths.SUMMARY, summary)
      _write_report(running, now)
      bar.say(report.conclusion(summary, journal.lines, workdir))
    return summary


def _opened(
  config: Config,
  workdir: pathlib.Path,
  mesh: jax.sharding.Mesh,
  plan: gl.Plan,
  *,
  data: dict[str, Any],
) -> checkpoint.Checkpoints | local_copies.LocalCopies:
  """The checkpoints of a run: one for all processes, or each its own."""
  if config.checkpoint.local:
    return local_copies.LocalCopies(config, mesh, data=data)
  return checkpoint.Checkpoints(
    workdir / paths.CHECKPOINTS,
    config,
    mesh,
    data=data,
    is_elastic=plan.is_elastic,
    is_local=plan.is_local,
  )


def _loop(run: _Run, now: Snapshot) -> Snapshot:
  """Takes the remaining steps and returns the state after the last one."""
  config, job = run.config, run.job
  batches = job.task.train(
    config.batch_size, jax.process_index(), jax.process_count()
  )
  if now.progress.data:
    batches.set_state(now.progress.data)
  clock = progress.Clock(now.progress.seconds, now.step)
  compressed = [leaf.path for leaf in job.plan.leaves if leaf.compressed]
  seen = diagnostics.Window(compressed, now.progress.diagnostics)
  is_due = lambda every: (
    now.step == config.steps or (every and now.step % every == 0)
  )
  loss, asked_to_stop = None, False
  is_save_due = is_comparison_due = False
  lines: list[_Line] = []  # Due, and not written yet.
  while now.step < config.steps:
    # One step is computed while the next is prepared, never more: XLA's CPU
    # client deadlocks when virtual devices get too many steps ahead.
    previous, (now, loss, phase) = loss, _advance(job, now, batches, seen)
    jax.block_until_ready(previous)
    run.watch.saw(f'step {now.step}')
    run.bar.advance(now.step)
    # At the end of a round all workers are at the same parameters.
    ends_round = phase != 'local' or now.step == config.steps

    if is_due(config.log.every):
      jax.block_until_ready(loss)
      now = now.progressed(skipped=_skipped(now))
      values = _measured(run, now, clock) | seen.line()
      lines.append(_Line(now.step, loss, values))

    # The mean of a loss travels, and local steps wait for nothing that does.
    if lines and (ends_round or is_due(config.evaluation.every)):
      is_finite = _write(run, lines)
      _check_gradients(now, None if is_finite else loss)
      lines = []

    if is_due(config.evaluation.every):
      with clock.stopped_after(loss):
        run.write(now.step, _evaluated(run, now))
        _write_report(run, now)
      if now.step == config.steps:
        _check_score(run.journal.last('eval_loss'))

    asked_to_stop |= run.stop.due(now.step)
    is_save_due |= asked_to_stop or is_due(config.checkpoint.every)
    is_comparison_due |= is_save_due or is_due(config.agreement.every)
    if is_comparison_due and ends_round:
      with clock.stopped_after(loss):
        run.workers.check(now.params, now.step)
      is_comparison_due = False
    if is_save_due and ends_round:
      with clock.stopped_after(loss):
        _check_gradients(now, loss)  # A run can resume from every checkpoint.
        _check_parameters(now)
        now = run.checkpoints.save(
          now.progressed(
            skipped=_skipped(now),
            seconds=clock.seconds,
            diagnostics=seen.state(),
            checkpoint_bytes=now.progress.checkpoint_bytes
            + (0 if config.checkpoint.local else job.traffic.save_bytes),
          )
        )
        run.watch.saw(f'the checkpoint after step {now.step}')
      is_save_due = False

    run.after_step(now)
    if asked_to_stop and not is_save_due and now.step < config.steps:
      raise preemption.Preempted(f'Stopped after step {now.step}, as asked.')
  return now


def _advance(
  job: build.Job,
  now: Snapshot,
  batches: tasks.Batches,
  seen: diagnostics.Window,
) -> tuple[Snapshot, jax.Array, str]:
  """One optimizer step and its phase; the loss stays on the device."""
  batch = job.place(next(batches))
  params, opt_state, loss = job.step(now.params, now.opt_state, batch)
  was = now.progress
  # A skipped step does not count for the phases.
  counted = now.step - was.skipped
  phase = traffic.phase_of(job.plan, counted, opt_state)
  if job.diagnosed:
    loss, of_step = loss
    seen.add(phase, of_step)
  done = dataclasses.replace(
    was,
    data=batches.get_state(),
    bytes_sent=was.bytes_sent + job.traffic.step_bytes(phase),
    dense_bytes=was.dense_bytes + job.traffic.dense_bytes,
  )
  return Snapshot(now.step + 1, params, opt_state, done), loss, phase


def _measured(
  run: _Run, now: Snapshot, clock: progress.Clock
) -> dict[str, Any]:
  """A line of metrics for the step that was just taken, without its loss."""
  task, skipped = run.job.task, now.progress.skipped
  units = run.config.batch_size * task.units_per_example
  rate = clock.lap(now.step)
  return {
    'learning_rate': float(run.job.schedule(now.step - 1 - skipped)),
    'seconds': clock.seconds,
    f'{task.unit}_per_second': rate * units,
    **now.progress.sent(),
    'skipped_steps': skipped,
  }


def _evaluated(run: _Run, now: Snapshot) -> dict[str, Any]:
  """A line of metrics with the score on the held-out examples."""
  after_batch = lambda: run.watch.saw(
    f'a batch of the evaluation after step {now.step}'
  )
  score = run.job.evaluate(now.params, after_batch)
  return {
    **{f'eval_{name}': value for name, value in score.items()},
    **now.progress.sent(),
  }


def _write_report(run: _Run, now: Snapshot) -> None:
  """Writes report.html, with what is known after this step."""
  if processes.is_main():
    page = report.render(run.config, run.job, now, run.journal)
    json_files.write_text(run.journal.workdir / paths.REPORT, page)


def _write(run: _Run, lines: list[_Line]) -> bool:
  """Writes lines; returns whether the last loss is finite on all workers."""
  means = [*map(float, _means([line.loss for line in lines]))]
  for mean, line in zip(means, lines, strict=True):
    run.write(line.step, {'loss': mean} | line.values)
  return math.isfinite(means[-1])


def _skipped(now: Snapshot) -> int:
  """Steps so far that all workers skipped: gradients were not finite."""
  return int(optax.tree.get(now.opt_state, 'total_notfinite', 0))


@jax.jit
def _means(losses: list[jax.Array]) -> list[jax.Array]:
  """The mean over the workers, if each has its own, in one message for all."""
  stacked = jnp.stack(losses)
  return [*jnp.mean(stacked, axis=tuple(range(1, stacked.ndim)))]


def _check_gradients(now: Snapshot, loss: jax.Array | None) -> None:
  """Raises for gradients that are not finite any more.

  These are many skipped steps in a row, or with local updates, where workers
  skip steps on their own, losses that are not finite on any of them. None is a
  loss that is finite on all, so nobody is asked.
  """
  if loss is not None and loss.ndim and not _any_finite(loss):
    raise FloatingPointError(
      f'The loss of no worker is finite after step {now.step}: lower'
      ' optimizer.learning_rate, or look at the data.'
    )
  row = int(optax.tree.get(now.opt_state, 'notfinite_count', 0))
  if row >= optimizer.MAX_SKIPPED_IN_A_ROW:
    raise FloatingPointError(
      f'The gradients of the last {row} steps before step {now.step} were not'
      ' finite: lower optimizer.learning_rate, or look at the data.'
    )


@jax.jit
def _any_finite(x: jax.Array) -> jax.Array:
  return jnp.any(jnp.isfinite(x))


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
  finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
  return jnp.all(jnp.stack(finite))


def _check_parameters(now: Snapshot) -> None:
  """Raises for parameters that an update of finite gradients has broken."""
  if not _all_finite(now.params):
    raise FloatingPointError(
      f'The parameters after step {now.step} must be finite, got NaN or'
      ' infinity: lower optimizer.learning_rate, or use other options of the'
      ' optimizer.'
    )


def _check_score(loss: float) -> None:
  """Raises for a run that ends without a held-out loss."""
  if not math.isfinite(loss):
    raise FloatingPointError(
      f'The held-out loss after the last step must be finite, got {loss}:'
      ' lower optimizer.learning_rate, or look at the data.'
    )
