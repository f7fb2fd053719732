"""What is left when a run is over: summary.json, loss.png and a paragraph."""

import json
import pathlib
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402


def write_summary(workdir: pathlib.Path, summary: dict[str, Any]) -> None:
  """Writes summary.json."""
  text = json.dumps(summary, indent=2) + '\n'
  (workdir / 'summary.json').write_text(text, encoding='utf-8')


def paragraph(
    summary: dict[str, Any], lines: list[dict[str, Any]], workdir: pathlib.Path
) -> str:
  """What was learnt, what was saved, and where it lies."""
  first = next((x['loss'] for x in lines if 'loss' in x), float('nan'))
  bits = summary.get('final_eval_bits_per_byte')
  per_byte = f', {bits:.3f} bits per byte,' if bits else ''
  text = (
      f'{summary["steps"]} steps took the training loss from {first:.3f} to'
      f' {summary["final_loss"]:.3f} nats per token; on held-out text it is'
      f' {summary["final_eval_loss"]:.3f}{per_byte} after'
      f' {summary["seconds"]:.0f} s of training.'
  )
  if summary['num_workers'] > 1:
    text += (
        f' Each of {summary["num_workers"]} workers sent'
        f' {summary["bytes_sent"] / 1e6:,.1f} MB by {summary["compressor"]};'
        f' dense averaging would have sent {summary["dense_bytes"] / 1e6:,.1f}'
        f' MB, {summary["compression"]:.2f}x as much.'
    )
  return f'{text} Checkpoints, metrics and loss.png lie in {workdir}.'


def draw_loss(workdir: pathlib.Path, lines: list[dict[str, Any]]) -> None:
  """Draws loss.png: the loss against steps, and against bytes sent."""
  train = [x for x in lines if 'loss' in x]
  held_out = [x for x in lines if 'eval_loss' in x]
  figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
  for ax, key, scale, label in (
      (axes[0], 'step', 1, 'step'),
      (axes[1], 'bytes_sent', 1e-6, 'MB sent per worker'),
  ):
    at = lambda of: [x[key] * scale for x in of]  # noqa: B023
    ax.plot(at(train), [x['loss'] for x in train], label='training', lw=1)
    ax.plot(
        at(held_out), [x['eval_loss'] for x in held_out], 'o-', ms=4,
        label='held out',
    )  # fmt: skip
    ax.set_xlabel(label)
    ax.grid(alpha=0.3)
  if train and train[-1]['dense_bytes'] > train[-1]['bytes_sent']:
    axes[1].axvline(
        train[-1]['dense_bytes'] * 1e-6, color='gray', ls='--',
        label='dense would have sent',
    )  # fmt: skip
  axes[0].set_ylabel('loss, nats per token')
  axes[1].legend()
  figure.savefig(workdir / 'loss.png', dpi=120)
  plt.close(figure)
