"""What a run tells people: introduction, summary, figure and conclusion."""

import pathlib
from typing import Any

import jax
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

from train.config.schema import Config
from train.run import build, metrics
from train.run.checkpoint import Snapshot


def introduction(config: Config, job: build.Job, now: Snapshot) -> str:
  """What is trained, on which devices, and what each step will send."""
  compression = config.compression
  lines = [
    job.task.introduction,
    f'{sum(x.size for x in jax.tree.leaves(now.params)):,} parameters,'
    f' {job.workers} workers on {jax.devices()[0].device_kind},'
    f' {compression.method} before {config.optimizer.name}',
    '',
    str(job.plan),
    '',
    job.traffic.describe(),
  ]
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


def paragraph(
  summary: dict[str, Any], lines: list[dict[str, Any]], workdir: pathlib.Path
) -> str:
  """The result of a run in a few sentences."""
  if summary['final_loss'] is None or summary['final_eval_loss'] is None:
    return 'This run was already finished, and its metrics.jsonl is missing.'
  first = next(x['loss'] for x in lines if 'loss' in x)
  text = (
    f'{summary["steps"]} steps took the training loss from {first:.3f} to'
    f' {summary["final_loss"]:.3f} in {summary["seconds"]:.0f} s.'
    f' Held-out loss: {summary["final_eval_loss"]:.3f}'
    f'{metrics.format_scores(summary)}.'
  )
  if summary['bytes_sent']:
    text += (
      f' Each worker sent {summary["bytes_sent"] / 1e6:,.1f} MB by'
      f' {summary["compressor"]}; dense averaging would have sent'
      f' {summary["dense_bytes"] / 1e6:,.1f} MB,'
      f' {summary["compression"]:.2f}x as much.'
    )
  if summary['checkpoint_bytes']:
    text += (
      f' Averaging the errors for checkpoints took another'
      f' {summary["checkpoint_bytes"] / 1e6:,.1f} MB.'
    )
  return f'{text} Checkpoints, metrics and loss.png are in {workdir}.'


def draw_curves(
  path: pathlib.Path, name: str, lines: list[dict[str, Any]]
) -> None:
  """Draws the losses of a run against steps and against bytes sent, as a PNG.

  The thin line is the training loss; dots are held-out losses.
  """
  figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
  for ax, key, scale in ((axes[0], 'step', 1), (axes[1], 'bytes_sent', 1e-6)):
    for loss, style, options in (
      ('loss', '-', {'lw': 1, 'alpha': 0.6, 'label': 'training'}),
      ('eval_loss', 'o-', {'ms': 4, 'label': f'{name}, held-out'}),
    ):
      points = [(x[key] * scale, x[loss]) for x in lines if loss in x]
      ax.plot(*np.reshape(points, (-1, 2)).T, style, color='C0', **options)
  if end := _dense_end(lines):
    axes[1].axvline(end, color='gray', ls='--', label='sent by dense averaging')
  axes[0].set_xlabel('step')
  axes[1].set_xlabel('MB sent per worker')
  axes[0].set_ylabel('loss')
  axes[1].legend()
  for ax in axes:
    ax.grid(alpha=0.3)
  figure.savefig(path, dpi=120)
  plt.close(figure)


def _dense_end(lines: list[dict[str, Any]]) -> float | None:
  """MB that dense averaging would have sent, if they differ."""
  if not lines:
    return None
  dense, sent = lines[-1]['dense_bytes'], lines[-1]['bytes_sent']
  return dense * 1e-6 if dense > sent else None
