"""What a run tells people: introduction, summary and conclusion."""

from collections.abc import Sequence
import pathlib
from typing import Any

import jax

from train.config.schema import Config
from train.run import build, metrics, optimizer, paths
from train.run.checkpoint import Snapshot


def subject(config: Config, job: build.Job) -> list[str]:
  """What is trained, on how many workers and how: a few lines."""
  size = sum(x.size for x in jax.tree.leaves(job.fresh.params))
  return [
    *job.task.introduction.splitlines(),
    f'{size:,} parameters, {job.workers} workers on'
    f' {jax.devices()[0].device_kind}, {config.compression.method} before'
    f' {config.optimizer.name}',
  ]


def introduction(config: Config, job: build.Job, now: Snapshot) -> str:
  """What is trained, on which devices, and what each step will send."""
  compression = config.compression
  lines = [*subject(config, job), '', str(job.plan), '', job.traffic.describe()]
  lines += optimizer.late_start(config)
  if unread := compression.unread():
    values = (f'{key}={getattr(compression, key)!r}' for key in unread)
    lines.append(f'Not used by {compression.method}: {", ".join(values)}.')
  if now.step:
    lines.append(f'Continuing after step {now.step}.')
  if now.averaged_over:
    lines.append(
      f'The checkpoint is of {now.averaged_over} workers: each of'
      f' {job.workers} begins with the mean of their optimizer states and'
      ' errors.'
    )
  if lost := now.without_copy:
    lines.append(
      f'The state of worker{"s" * (len(lost) > 1)}'
      f' {", ".join(map(str, lost))} is lost: errors and inner optimizer'
      ' states begin with the mean of the other workers.'
    )
  return '\n'.join(lines)


def summary(
  config: Config, job: build.Job, now: Snapshot, journal: metrics.Metrics
) -> dict[str, Any]:
  """The content of summary.json."""
  done, steps = now.progress, now.step
  return {
    'steps': steps,
    'final_loss': journal.last('loss'),
    **{f'final_{x}': journal.last(x) for x in journal.names('eval_')},
    'compressor': config.compression.method,
    'num_workers': job.workers,
    **done.sent(),
    'checkpoint_bytes': done.checkpoint_bytes,
    'bytes_per_step': done.bytes_sent / steps,
    'dense_bytes_per_step': done.dense_bytes / steps,
    'compression': (
      done.dense_bytes / done.bytes_sent if done.bytes_sent else 1.0
    ),
    'seconds': journal.last('seconds'),
  }


def paragraph(summary: dict[str, Any], lines: Sequence[dict[str, Any]]) -> str:
  """The result of a run in a few sentences."""
  if summary['final_loss'] is None or summary['final_eval_loss'] is None:
    return 'This run was already finished, and its metrics.jsonl is missing.'
  losses = [x['loss'] for x in lines if 'loss' in x]
  first = f' from {losses[0]:.3f}' if len(losses) > 1 else ''
  text = (
    f'{summary["steps"]} steps took the training loss{first} to'
    f' {summary["final_loss"]:.3f} in {summary["seconds"]:.0f} s.'
    f' Held-out loss: {summary["final_eval_loss"]:.3f}'
    f'{metrics.format_scores(summary)}.'
  )
  if summary['bytes_sent']:
    text += (
      f' Each worker sent {metrics.format_bytes(summary["bytes_sent"])} by'
      f' {summary["compressor"]}; dense averaging would have sent'
      f' {metrics.format_bytes(summary["dense_bytes"])},'
      f' {summary["compression"]:.2f}x as much.'
    )
  if summary['checkpoint_bytes']:
    text += (
      f' Averaging the errors for checkpoints took another'
      f' {metrics.format_bytes(summary["checkpoint_bytes"])}.'
    )
  return text


def conclusion(
  summary: dict[str, Any], lines: list[dict[str, Any]], workdir: pathlib.Path
) -> str:
  """The result of a run, and where to find everything about it."""
  return (
    f'\n{paragraph(summary, lines)}\nCheckpoints and metrics are in {workdir}.'
    f'\nCurves, bytes per leaf and configuration: {workdir / paths.REPORT}'
  )
