"""The score on held-out examples."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from train import tasks
from train.config.schema import Config
from train.distributed import cluster

_P = jax.sharding.PartitionSpec
# From parameters, and what to call after each batch, to the task's metrics.
Evaluate = Callable[[Any, Callable[[], None]], dict[str, float]]


def build(
  config: Config, mesh: jax.sharding.Mesh, task: tasks.Task
) -> Evaluate:
  """The task's metrics on evaluation.sequences, as a function of parameters."""
  axis = cluster.WORKER_AXIS
  size = config.batch_size

  def mean_statistics(params, batch):
    means = lambda x: jax.lax.pmean(x, axis)
    return jax.tree.map(means, task.statistics(params, batch))

  on_mesh = lambda function, specs, out: jax.jit(
    jax.shard_map(
      function, mesh=mesh, axis_names={axis}, in_specs=specs, out_specs=out
    ),
    out_shardings=jax.sharding.NamedSharding(mesh, _P()),
  )
  statistics_of = on_mesh(mean_statistics, (_P(), _P(axis)), _P())
  outputs_of = on_mesh(task.outputs, (_P(), _P(), _P(axis)), _P(axis))
  calibration = list(task.calibration(size))
  held_out = task.held_out(config.evaluation.sequences)
  count = len(jax.tree.leaves(held_out)[0])

  def local_batch(start):
    # The last batch is filled up with what comes first.
    rows = np.arange(start, start + size).reshape(jax.process_count(), -1)
    mine = rows[jax.process_index()] % count
    return jax.tree.map(lambda x: x[mine], held_out)

  # Each result is waited for: virtual devices must not fall far behind.
  def evaluate(params, after_batch):
    found = []
    for batch in calibration:
      statistics = statistics_of(params, cluster.divide(mesh, batch))
      found.append(jax.device_get(statistics))
      after_batch()
    statistics = (
      jax.tree.map(lambda *xs: np.mean(xs, axis=0), *found) if found else ()
    )
    outputs = []
    for i in range(0, count, size):
      batch = cluster.divide(mesh, local_batch(i))
      outputs.append(np.asarray(outputs_of(params, statistics, batch)))
      after_batch()
    return task.score(np.concatenate(outputs)[:count], held_out)

  return evaluate
