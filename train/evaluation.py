"""The loss on held-out text."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train import cluster
from train import config
from train import data

_P = jax.sharding.PartitionSpec


def build(
    settings: config.Config,
    mesh: jax.sharding.Mesh,
    text: data.TextData,
    loss_fn: Callable[..., jax.Array],
) -> Callable[[Any], float]:
  """The mean loss over evaluation.sequences, as a function of parameters."""
  axis = cluster.WORKER_AXIS

  def mean_loss(params, batch):
    return jax.lax.pmean(loss_fn(params, batch), axis)

  loss_of = jax.jit(
      jax.shard_map(
          mean_loss, mesh=mesh, in_specs=(_P(), _P(axis)), out_specs=_P()
      )
  )
  rows = text.evaluation(settings.evaluation.sequences)
  local = settings.batch_size // jax.process_count()
  mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
  batches = rows.reshape(-1, settings.batch_size, rows.shape[-1])[:, mine]

  def evaluate(params):
    # Each loss is waited for: virtual devices must not fall far behind.
    return float(
        np.mean([
            float(loss_of(params, cluster.divide(mesh, rows)))
            for rows in batches
        ])
    )

  return evaluate
