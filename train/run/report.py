"""What is left when a run is over: summary.json, loss.png and a paragraph."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from train.run import json_files
from train.run import metrics


def write_summary(workdir: pathlib.Path, summary: dict[str, Any]) -> None:
  """Writes summary.json."""
  text = json_files.dumps(summary, indent=2)
  json_files.write(workdir / 'summary.json', f'{text}\n')


def paragraph(
  summary: dict[str, Any], lines: list[dict[str, Any]], workdir: pathlib.Path
) -> str:
  """What was learnt, what was saved, and where it lies."""
  if summary['final_loss'] is None or summary['final_eval_loss'] is None:
    return 'This run was finished before, and its metrics.jsonl is not here.'
  first = next(x['loss'] for x in lines if 'loss' in x)
  text = (
    f'{summary["steps"]} steps took the training loss from {first:.3f} to'
    f' {summary["final_loss"]:.3f} in {summary["seconds"]:.0f} s. Held'
    f' out it is {summary["final_eval_loss"]:.3f}{metrics.beside(summary)}.'
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
  return f'{text} Checkpoints, metrics and loss.png lie in {workdir}.'


def draw_curves(
  path: pathlib.Path, name: str, lines: list[dict[str, Any]]
) -> None:
  """Draws the losses of a run against steps and against bytes sent.

  Args:
    path: of the PNG.
    name: of the method.
    lines: of metrics.jsonl. The thin line is the training loss, dots are
      held-out ones.
  """
  figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
  train = [x for x in lines if 'loss' in x]
  held_out = [x for x in lines if 'eval_loss' in x]
  for ax, key, scale in ((axes[0], 'step', 1), (axes[1], 'bytes_sent', 1e-6)):
    ax.plot(
      [x[key] * scale for x in train],
      [x['loss'] for x in train],
      lw=1,
      alpha=0.6,
      color='C0',
      label='training',
    )
    ax.plot(
      [x[key] * scale for x in held_out],
      [x['eval_loss'] for x in held_out],
      'o-',
      ms=4,
      color='C0',
      label=f'{name}, held out',
    )
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
  """MB that dense averaging would have sent, if that is another number."""
  if not lines:
    return None
  dense, sent = lines[-1]['dense_bytes'], lines[-1]['bytes_sent']
  return dense * 1e-6 if dense > sent else None
