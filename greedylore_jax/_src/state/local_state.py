"""The state of `local_updates`, and whether a given one fits it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.state.per_worker import PerWorker
from greedylore_jax._src.types import (
  Array,
  Function,
  OptState,
  Params,
  PyTree,
  Updates,
)
from greedylore_jax._src.wire import worker_axes


class InFlight(NamedTuple):
  """What has been sent and not arrived yet, see `delay` of `local_updates`.

  Attributes:
    left: int32 [fragments], steps until it arrives, 0 if nothing is in flight;
      equal on all workers.
    moves: the updates of x that will arrive; equal on all workers.
    sent: how far each worker had moved when it sent.
  """

  left: Array
  moves: Updates
  sent: PerWorker


class LocalUpdatesState(NamedTuple):
  """State of `local_updates`.

  Attributes:
    count: int32 scalar, steps taken; equal on all workers.
    since: int32 [fragments], steps since the last round of each; equal on all
      workers.
    rounds: int32 [fragments], rounds ended; equal on all workers.
    delta: y_i - x - (what is in flight), how far each worker moved since it
      last sent; zero after a round. Its leaves have at least float32.
    inner: the inner optimizer's state of each worker.
    outer: the state of the outer chain with the errors of its compressor, one
      for each fragment.
    in_flight: `InFlight` with a `delay`, else ().
    norm: the smoothed squared gradient norm of each worker with `SelSync`, else
      ().
  """

  count: Array  # type: ignore[assignment]
  since: Array
  rounds: Array
  delta: PerWorker
  inner: PerWorker
  outer: tuple[OptState, ...]
  in_flight: InFlight | tuple[()] = ()
  norm: PerWorker | tuple[()] = ()


def local_params(params: Params, opt_state: OptState) -> Params:
  """The parameters at which this worker takes its next gradient.

  Args:
    params: the global parameters x.
    opt_state: on one worker, as in `jax.shard_map`.

  Returns:
    y_i = x + delta_i, one per worker, and with a `delay` what is in flight;
    `params` themselves without `local_updates` in the chain.

  Raises:
    ValueError: if there are several `local_updates` in the chain.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp, optax
    >>> tx = gl.local_updates(
    ...   optax.sgd(0.1),
    ...   outer=optax.chain(gl.average_gradients(None), optax.sgd(1.0)),
    ...   every=2,
    ... )
    >>> params = {'w': jnp.ones(3)}
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> print(updates['w'], gl.local_params(params, state)['w'])
    [0. 0. 0.] [0.9 0.9 0.9]
  """
  state = find_local(opt_state)
  if state is None:
    return params
  delta = state.delta.own
  if isinstance(state.in_flight, InFlight):
    delta = jax.tree.map(jnp.add, delta, state.in_flight.sent.own)
  return _moved(params, delta)


def find_local(opt_state: OptState) -> LocalUpdatesState | None:
  """The state of `local_updates` in a chain's state; None without it."""
  is_local: Function = lambda x: isinstance(x, LocalUpdatesState)
  found = [
    x for x in jax.tree.leaves(opt_state, is_leaf=is_local) if is_local(x)
  ]
  if len(found) > 1:
    raise ValueError(
      f'The chain must hold one local_updates, got {len(found)}: remove one.'
    )
  return found[0] if found else None


def _moved(params: Params, delta: PyTree) -> Params:
  """The parameters x + delta; x where `optax.masked` has no delta."""
  is_masked: Function = lambda x: isinstance(x, optax.MaskedNode)
  return jax.tree.map(
    lambda d, x: x if is_masked(d) else (x + d).astype(x.dtype),
    delta,
    params,
    is_leaf=is_masked,
  )


def check_given(state: Any, updates: Updates, params: Params) -> None:
  """Raises for another state, averaged gradients or a worker's parameters."""
  if not isinstance(state, LocalUpdatesState):
    raise TypeError(
      'The state of local_updates must be a LocalUpdatesState, got a'
      f' {type(state).__name__}. If it comes from a checkpoint, pass it through'
      ' gl.place_state(..., tx=tx, params=params).'
    )
  own = [worker_axes.varying_axes(x) for x in jax.tree.leaves(state.delta)]
  expected = frozenset.intersection(*own) if own else frozenset()
  for path, g in jax.tree_util.tree_leaves_with_path(updates):
    if axes := sorted(expected - worker_axes.varying_axes(g)):
      raise ValueError(
        f'The gradient of {checks.path_name(path)!r} is already averaged or'
        f' summed over {axes}, so workers would not take their own steps: use'
        ' gl.value_and_local_grad at gl.local_params(params, opt_state).'
      )
  shared = worker_axes.varying_axes(state.count)
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if axes := sorted(worker_axes.varying_axes(x) - shared):
      raise ValueError(
        'params must be the global parameters, equal on all workers, got'
        f' {checks.path_name(path)!r} that differs over {axes}:'
        ' gl.local_params(params, opt_state) is for the gradient only.'
      )
