"""A worker of this library: averages given gradients when ordered to.

    python -m benchmarks.averaging.ours MODEL COORDINATOR WORKERS ID

Takes the orders of `benchmarks.averaging.crew`. KIND is 'compress', 'refresh'
for steps that refresh all leaves, or 'turn' for staggered steps that refresh
the largest matrix.
"""

from collections.abc import Sequence
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.averaging import crew, shapes
import greedylore_jax as gl

_P = jax.sharding.PartitionSpec
_AXIS = 'replica'
METHODS: dict[str, tuple[gl.Compressor, dict[str, Any]]] = {
  'dense': (gl.Dense(), {}),
  'greedylore': (gl.GreedyLore(32), {}),
  'greedylore_staggered': (gl.GreedyLore(32), {'stagger': True}),
  'greedylore_independent': (gl.GreedyLore(32, probes='independent'), {}),
  'range_finder': (gl.RangeFinder(20), {}),
  'powersgd': (gl.PowerSGD(20), {}),
  'powersgd_int8': (gl.PowerSGD(20), {'factor_dtype': 'int8'}),
  'powersgd_int4': (gl.PowerSGD(20), {'factor_dtype': 'int4'}),
}


class Worker:
  """Holds its gradients and the state of the method in use.

  Args:
    model: key of `shapes.LLAMAS`.
    devices: one per worker.
  """

  def __init__(self, model: str, devices: Sequence[jax.Device]):
    self.mesh = jax.sharding.Mesh(np.array(devices), (_AXIS,))
    rng = np.random.default_rng(jax.process_index())
    own = jax.sharding.NamedSharding(self.mesh, _P(_AXIS))
    self.grads = {
      name: jax.make_array_from_process_local_data(
        own, rng.standard_normal((1, *shape), np.float32)
      )
      for name, shape in shapes.matrices(model).items()
    }
    self.method, self.state, self.step = '', None, None
    self._compiled: dict[str, Any] = {}

  def use(self, method: str) -> None:
    """Starts a method; each is compiled once."""
    if method == self.method:
      return
    self.state = None  # Only one at a time must fit.
    compressor, options = METHODS[method]
    tx = gl.compress_gradients(compressor, _AXIS, **options)
    params = {
      name: jax.ShapeDtypeStruct(g.shape[1:], g.dtype)
      for name, g in self.grads.items()
    }
    state = jax.eval_shape(tx.init, params)
    specs = gl.state_partition_specs(state, _AXIS)

    def average(grads, state):
      return tx.update(jax.tree.map(lambda g: g[0], grads), state)

    if method not in self._compiled:
      self._compiled[method] = jax.jit(
        jax.shard_map(
          average,
          mesh=self.mesh,
          in_specs=(_P(_AXIS), specs),
          out_specs=(_P(), specs),
        ),
        donate_argnums=1,
      )
    self.method, self.step = method, self._compiled[method]
    self.plan = gl.plan(compressor, params, **options)
    make = lambda: tx.init(jax.tree.map(lambda x: jnp.zeros(x.shape), params))
    self.state = jax.jit(
      jax.shard_map(make, mesh=self.mesh, in_specs=(), out_specs=specs)
    )()

  def when(self, kind: str) -> int:
    """The number of a step of that kind."""
    period = range(200, 400)
    if kind == 'turn':
      sent = lambda i: self.plan.bytes_in(self.plan.phase_at(i))
      return max(period, key=sent)
    steps = [0, *period]
    return next(i for i in steps if self.plan.phase_at(i) in (kind, 'dense'))

  def run(self, method: str, kind: str, steps: int) -> list[float]:
    """Seconds of each step."""
    self.use(method)
    at, seconds = self.when(kind), []
    for _ in range(steps):
      self.state = self.state._replace(count=self.state.count * 0 + at)
      jax.block_until_ready(self.state)
      begin = time.perf_counter()
      updates, self.state = self.step(self.grads, self.state)
      jax.block_until_ready((updates, self.state))
      seconds.append(time.perf_counter() - begin)
      del updates
    return seconds


def main(model: str, coordinator: str, workers: str, index: str) -> None:
  """Joins the other workers and follows orders."""
  answers = crew.claim_output()
  if int(workers) > 1:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(coordinator, int(workers), int(index))
  crew.follow(answers, Worker(model, jax.devices()).run)


if __name__ == '__main__':
  main(*sys.argv[1:])
