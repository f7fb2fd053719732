"""The runs of one configuration at several rates and seeds, as one program.

Workers, learning rates and seeds are axes of `jax.vmap`, and steps are a
`jax.lax.scan`, so a device that one small run would leave idle is busy. Model,
loss, data, optimizer and compression are the trainer's own.

Runs that are computed together share their step counters, because a branch on
a counter of each run would take both sides. So a run that skips a step, which
is not finite, counts it here and not in the trainer.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import greedylore_jax as gl
from train import tasks
from train.config.schema import Config
from train.config.subject import Data, Model
from train.data import text as text_lib
from train.distributed import cluster
from train.models import llama
from train.run import optimizer, traffic
from train.study import budget

_AXIS = cluster.WORKER_AXIS
_SCORED_AT_ONCE = 64  # Held-out examples of a run.


class Lane(NamedTuple):
  """One of the runs: its learning rate, and its seed of parameters and data."""

  rate: float
  seed: int


class Outcome(NamedTuple):
  """What came of a run.

  Attributes:
    lane: which run.
    curve: step and held-out loss of each evaluation.
    times_fewer: dense bytes over those of the run; None for one worker.
    params: the global parameters after the last step.
  """

  lane: Lane
  curve: list[tuple[int, float]]
  times_fewer: float | None
  params: Any


class Done(NamedTuple):
  """All runs, and the seconds to compile and to compute them together."""

  outcomes: list[Outcome]
  compile_seconds: float
  run_seconds: float


def run(config: Config, text: text_lib.TextData, lanes: Sequence[Lane]) -> Done:
  """Trains every lane as `train.run.loop.run` would, on one device.

  Args:
    config: the configuration, with mesh.replica workers. The lanes replace its
      learning rate and its seeds of parameters and data.
    text: what data.source holds.
    lanes: the runs.
  """
  groups = _groups(config, lanes)
  begin = time.perf_counter()
  program = Program(config, text, groups[0])
  compiled = time.perf_counter()
  outcomes = [x for group in groups for x in program.run(group)]
  end = time.perf_counter()
  return Done(outcomes, compiled - begin, end - compiled)


def _groups(config: Config, lanes: Sequence[Lane]) -> list[list[Lane]]:
  """Lanes whose rounds end at the same steps, in groups of equal size."""
  if config.local.selsync_threshold is not None:
    return [[lane] for lane in lanes]
  if config.local.qsr_alpha is None:
    return [list(lanes)]
  rates = dict.fromkeys(lane.rate for lane in lanes)
  return [[x for x in lanes if x.rate == rate] for rate in rates]


class Program:
  """What is compiled for a group of lanes.

  Attributes:
    train: from rates, parameters, optimizer states and batches to the second
      and third after some steps.
  """

  def __init__(
    self, config: Config, text: text_lib.TextData, lanes: Sequence[Lane]
  ):
    task = _task(config.model, config.data, text)
    self._config, self._text, self._task = config, text, task
    self._chunk = math.gcd(config.steps, config.evaluation.every)
    self._held_out = task.held_out(config.evaluation.sequences)
    # A rule that depends on the rate is the same for all only with one rate.
    self._one_rate = len({lane.rate for lane in lanes}) == 1
    rates = self._rates(lanes)
    params, state, axes = _begin(config, text, lanes)
    rows = config.batch_size, *task.example().shape
    batches = jax.ShapeDtypeStruct((self._chunk, len(lanes), *rows), np.int32)
    step = functools.partial(_step, config, task)
    if len(lanes) == 1:
      step = _of_one_lane(step, axes)
    else:
      of_rates = None if self._one_rate else 0
      step = jax.vmap(step, in_axes=(of_rates, 0, axes, 0))
    train = jax.jit(functools.partial(_scan, step, axes), donate_argnums=(1, 2))
    self.train = train.lower(rates, params, state, batches).compile()

  def run(self, lanes: Sequence[Lane]) -> list[Outcome]:
    """Trains and scores a group of lanes."""
    config, chunk = self._config, self._chunk
    params, state, _ = _begin(config, self._text, lanes)
    data = [
      _batches(config.batch_size, config.steps, self._text, x.seed)
      for x in lanes
    ]
    curves: list[list[tuple[int, float]]] = [[] for _ in lanes]
    for begin in range(0, config.steps, chunk):
      end = begin + chunk
      batches = np.stack([x[begin:end] for x in data], axis=1, dtype=np.int32)
      params, state = self.train(self._rates(lanes), params, state, batches)
      every = config.evaluation.every
      if end == config.steps or (every and end % every == 0):
        all_outputs = np.asarray(_outputs(self._task, params, self._held_out))
        for curve, outputs in zip(curves, all_outputs, strict=True):
          loss = self._task.score(outputs, self._held_out)['loss']
          curve.append((end, loss))
    fewer = [self._times_fewer(lane, state) for lane in lanes]
    params = jax.device_get(params)
    of_lane = lambda i: jax.tree.map(lambda x: x[i], params)
    return [
      Outcome(lane, curve, fewer[i], of_lane(i))
      for i, (lane, curve) in enumerate(zip(lanes, curves, strict=True))
    ]

  def _times_fewer(self, lane: Lane, state: Any) -> float | None:
    """Dense bytes over those of a lane; None for one worker."""
    config, local = self._config, self._config.local
    if config.mesh.replica == 1:
      return None
    if local.selsync_threshold is None:
      if local.qsr_alpha is not None:
        config = _at_rate(config, lane.rate)
      return budget.times_fewer(config, self._task)
    # Only the run knows how many rounds there were.
    plan = budget.plan(config, self._task)
    sent = config.steps * plan.bytes_in('local')
    for i in range(int(optax.tree.get(state, 'rounds')[0])):
      parts = plan.phase_after_round(i + 1).split('+')
      sent += sum(plan.bytes_in(x) for x in parts if x != 'local')
    return config.steps * traffic.dense_bytes(plan) / sent

  def _rates(self, lanes: Sequence[Lane]) -> jax.Array:
    rates = jnp.array([lane.rate for lane in lanes], jnp.float32)
    return rates[0] if self._one_rate else rates


@functools.lru_cache(maxsize=8)
def _task(
  model: Model, data: Data, text: text_lib.TextData
) -> tasks.LanguageModeling:
  """The task, the same object for all cells of a study."""
  return tasks.LanguageModeling(Config(model=model, data=data), text)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(
  task: tasks.LanguageModeling, params: Any, held_out: Any
) -> jax.Array:
  """The task's outputs of all lanes for all held-out examples."""
  count = len(jax.tree.leaves(held_out)[0])
  of_one = lambda params, x: task.outputs(
    params, (), jax.tree.map(lambda y: y[None], x)
  )[0]
  of_lane = lambda params: jax.lax.map(
    functools.partial(of_one, params),
    held_out,
    batch_size=min(count, _SCORED_AT_ONCE),
  )
  outputs: jax.Array = jax.vmap(of_lane)(params)
  return outputs


def _at_rate(config: Config, rate: float) -> Config:
  options = dataclasses.replace(config.optimizer, learning_rate=rate)
  return dataclasses.replace(config, optimizer=options)


# As `task.init`, compiled once for all cells.
_initial = jax.jit(llama.init, static_argnums=(0, 1))


def _begin(
  config: Config, text: text_lib.TextData, lanes: Sequence[Lane]
) -> tuple[Any, Any, Any]:
  """Parameters and optimizer states of all lanes before the first step.

  Returns:
    Both with a leading axis of lanes, and where the states have it: 0, or None
    for counters, which all lanes share.
  """
  task = _task(config.model, config.data, text)
  init = functools.partial(_initial, config.model, text.vocab_size)
  each = [task.start(init(lane.seed)) for lane in lanes]
  tx, _ = optimizer.build(config, _AXIS, task)
  state = gl.expand(tx.init(each[0]), config.mesh.replica, exact=False)
  axes = jax.tree_util.tree_map_with_path(
    lambda path, x, spec: None if _is_counter(path, x, spec) else 0,
    state,
    gl.state_partition_specs(state, _AXIS),
  )
  stack = lambda *xs: jnp.stack(xs)
  state = jax.tree.map(
    lambda axis, x: x if axis is None else stack(*[x] * len(lanes)),
    axes,
    state,
    is_leaf=_is_none,
  )
  return jax.tree.map(stack, *each), state, axes


def _is_counter(path: Any, x: jax.Array, spec: Any) -> bool:
  """Whether this counts steps or rounds, equally on all workers."""
  is_integer = jnp.issubdtype(x.dtype, jnp.integer)
  of_method = any(
    getattr(key, 'name', '') == 'compressor_state' for key in path
  )
  return is_integer and not spec and not of_method


def _is_none(x: Any) -> bool:
  return x is None


def _step(
  config: Config,
  task: tasks.Task,
  rate: jax.Array,
  params: Any,
  state: Any,
  batch: Any,
) -> tuple[Any, Any]:
  """A step of one lane, whose workers are an axis of `jax.vmap`."""
  unit = optimizer.learning_rates(_at_rate(config, 1.0))
  tx, _ = optimizer.build(
    config, _AXIS, task, schedule=lambda count: rate * unit(count)
  )
  gradient = gl.value_and_local_grad(task.loss, _AXIS)
  specs = jax.tree.map(
    lambda spec: 0 if spec else None, gl.state_partition_specs(state, _AXIS)
  )
  each = lambda f, tree: jax.tree.map(
    lambda axis, x: x if axis is None else f(x), specs, tree, is_leaf=_is_none
  )

  def worker(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
    _, grads = gradient(gl.local_params(params, state), batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params, state = jax.vmap(
    worker, in_axes=(None, specs, 0), out_axes=(None, specs), axis_name=_AXIS
  )(
    params,
    each(lambda x: x[:, None], state),
    batch.reshape(config.mesh.replica, -1, *batch.shape[1:]),
  )
  return params, each(lambda x: x[:, 0], state)


def _of_one_lane(step: Any, axes: Any) -> Any:
  """As `jax.vmap`, whose branches on what the only lane holds stay branches."""

  def of_one_lane(rate: Any, params: Any, state: Any, batch: Any) -> Any:
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)
    state = jax.tree.map(
      lambda axis, x: x if axis is None else x[0], axes, state, is_leaf=_is_none
    )
    done = step(rate, first(params), state, batch[0])
    return jax.tree.map(lambda x: x[None], done)

  return of_one_lane


def _scan(
  step: Any, axes: Any, rates: Any, params: Any, state: Any, batches: Any
) -> tuple[Any, Any]:
  """A step for each batch, of all lanes."""

  def one(carry: Any, batch: Any) -> Any:
    params, state = step(rates, *carry, batch)
    shared = lambda axis, x: jnp.max(x, axis=0) if axis is None else x
    state = jax.tree.map(shared, axes, state, is_leaf=_is_none)
    return (params, state), None

  return jax.lax.scan(one, (params, state), batches)[0]


@functools.lru_cache(maxsize=8)
def _batches(
  batch_size: int, steps: int, text: text_lib.TextData, seed: int
) -> np.ndarray:
  """The batches of a run, [steps, batch_size, time + 1]."""
  train = dataclasses.replace(text, seed=seed).train(batch_size)
  kind = text.held_out[0].windows.dtype
  return np.stack([next(train).astype(kind) for _ in range(steps)])
