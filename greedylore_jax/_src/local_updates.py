"""When to send: workers take local steps, then average how far they moved."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.engine.round_length import QSR, Rule
from greedylore_jax._src.state import checkpoint, per_worker
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
from greedylore_jax._src.wire.transport import all_finite


class LocalUpdatesState(NamedTuple):
  """State of `local_updates`.

  Attributes:
    count: int32 scalar, steps taken; equal on all workers.
    since: int32 scalar, steps since the last round; equal on all workers.
    delta: y_i - x, how far each worker is from the global parameters; zero
      after a round. Its leaves have at least float32.
    inner: the inner optimizer's state of each worker.
    outer: the state of the outer chain, with the errors of its compressor.
  """

  count: Array  # type: ignore[assignment]
  since: Array
  delta: PerWorker
  inner: PerWorker
  outer: OptState


class RoundOptimizer(NamedTuple):
  """An inner optimizer that learns from the outcome of each round.

  Attributes:
    init: as of an `optax.GradientTransformation`.
    update: as of an `optax.GradientTransformation`.
    after_round: (state, moved) -> state, called on every worker at the end of a
      round. `moved` is what x receives, equal on all workers; a leaf of zeros
      took no part in the round. It must not communicate.
  """

  init: Function
  update: Function
  after_round: Function


def local_updates(
  inner: optax.GradientTransformation | RoundOptimizer,
  *,
  outer: optax.GradientTransformation,
  every: int | QSR,
  start_step: int = 0,
  total_steps: int | None = None,
) -> optax.GradientTransformation:
  """Averages how far the workers moved in a round, not every gradient.

  Each worker takes steps of `inner` from the global parameters x to its own
  y_i. At the end of a round, D_i = x - y_i, the pseudo-gradient, goes through
  `outer`, which averages it and updates x. In a round of H steps:

    y_i <- y_i + inner(grad f_i(y_i))             H times, nothing is sent
    x <- x + outer(x - y_1 .. x - y_N),   y_i <- x.

  `params` are x, equal on all workers, and change at the end of a round only.
  Gradients belong at y_i, which `local_params` returns; `make_train_step` does
  that. Error feedback of the compressor in `outer` works on D_i as it does on
  gradients.

  A worker skips a local step whose update is not finite, and sends nothing of a
  round whose D_i is not. If the outcome of a round is not finite, all workers
  skip it.

  Args:
    inner: any optax transformation, such as `optax.adamw(1e-3)`; each worker
      has its own state of it.
    outer: a chain that begins with `compress_gradients` or `average_gradients`
      and continues with the outer optimizer, for example
      `optax.sgd(0.7, momentum=0.9, nesterov=True)`. Plain averaging is
      `optax.sgd(1.0)`.
    every: H, the steps in a round, or a rule such as `QSR`. Higher sends less
      and lets the workers move further apart.
    start_step: in the first `start_step` steps, every step is a round.
    total_steps: the length of the run, whose last step then ends a round. None
      is no end; steps after the last round are not part of x.

  Returns:
    An `optax.GradientTransformation` whose state is a `LocalUpdatesState`. Its
    updates are equal on all workers, and zero between rounds.

  Raises:
    ValueError, TypeError: for arguments out of range; when traced, if `outer`
      does not average, and as `compress_gradients`.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = gl.local_updates(
    ...     optax.adamw(1e-3),
    ...     outer=optax.chain(
    ...         gl.compress_gradients(gl.PowerSGD(32), 'data'),
    ...         optax.sgd(0.7, momentum=0.9, nesterov=True),
    ...     ),
    ...     every=30,
    ... )

  References:
    DiLoCo, arXiv 2311.08105 (2023), Algorithm 1; here with any compressor.
  """
  rule = Rule(every, start_step, total_steps)
  after_round: Function = lambda state, moved: state
  if isinstance(inner, RoundOptimizer):
    *functions, after_round = inner
    inner = optax.GradientTransformation(*functions)
  for name, tx in (('inner', inner), ('outer', outer)):
    if not isinstance(tx, optax.GradientTransformation):
      raise TypeError(
        f'{name} must be an optax.GradientTransformation, got {tx!r}.'
      )
  inner = optax.with_extra_args_support(inner)
  outer = optax.with_extra_args_support(outer)

  def init(params: Params) -> LocalUpdatesState:
    inner_state, outer_state = inner.init(params), outer.init(params)
    _check_parts(inner_state, outer_state)
    # Each in its own buffer, as a step that donates them requires.
    zero: Function = lambda: jnp.zeros([], jnp.int32)
    return LocalUpdatesState(
      count=zero(),
      since=zero(),
      delta=per_worker.of(jax.tree.map(_zeros, params)),
      inner=per_worker.of(inner_state),
      outer=outer_state,
    )

  def update(
    updates: Updates,
    state: LocalUpdatesState,
    params: Params = None,
    **extra: Any,
  ) -> tuple[Updates, LocalUpdatesState]:
    if params is None:
      raise ValueError(
        'local_updates needs the global parameters, got params=None: call'
        ' tx.update(grads, state, params).'
      )
    _check_given(state, updates)
    local = _moved(params, state.delta.own)
    moves, moments = inner.update(updates, state.inner.own, local, **extra)
    finite = all_finite(jax.tree.leaves(moves))
    keep = lambda new, old: jnp.where(finite, new, old)
    delta = jax.tree.map(
      lambda d, move: jnp.where(finite, d + move.astype(d.dtype), d),
      state.delta.own,
      moves,
    )
    moments = jax.tree.map(keep, moments, state.inner.own)
    count, since = state.count + 1, state.since + 1

    def end_round(
      delta: PyTree, outer_state: OptState, moments: OptState
    ) -> Any:
      finite = all_finite(jax.tree.leaves(delta))
      gradient = jax.tree.map(
        lambda d, x: jnp.where(finite, -d, 0).astype(x.dtype), delta, params
      )
      moved, new_state = outer.update(gradient, outer_state, params)
      _check_averaged(moved, count)
      # Received by all, so all agree on whether the round counts.
      finite = all_finite(jax.tree.leaves(moved))
      moved = jax.tree.map(lambda x: jnp.where(finite, x, 0), moved)
      # What stays the same is not copied out of the branch.
      keep: Function = lambda new, old: (
        old if new is old else jnp.where(finite, new, old)
      )
      outer_state = jax.tree.map(keep, new_state, outer_state)
      moments = jax.tree.map(keep, after_round(moments, moved), moments)
      return moved, jax.tree.map(_zeros_like, delta), outer_state, moments

    def stay(delta: PyTree, outer_state: OptState, moments: OptState) -> Any:
      zeros = jax.tree.map(jnp.zeros_like, params)
      return zeros, delta, outer_state, moments

    is_round = rule.is_end(state.count - state.since, state.count)
    moved, delta, outer_state, moments = jax.lax.cond(
      is_round, end_round, stay, delta, state.outer, moments
    )
    return moved, LocalUpdatesState(
      count=count,
      since=jnp.where(is_round, 0, since),
      delta=per_worker.of(delta),
      inner=per_worker.of(moments),
      outer=outer_state,
    )

  return optax.GradientTransformationExtraArgs(init, update)


def local_params(params: Params, opt_state: OptState) -> Params:
  """The parameters at which this worker takes its next gradient.

  Args:
    params: the global parameters x.
    opt_state: on one worker, as in `jax.shard_map`.

  Returns:
    y_i = x + delta_i, one per worker; `params` themselves without
    `local_updates` in the chain.

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
  return params if state is None else _moved(params, state.delta.own)


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


def _check_parts(inner_state: OptState, outer_state: OptState) -> None:
  """Raises if something is inside of the wrong transformation."""
  if checkpoint.holds_state(inner_state):
    raise ValueError(
      'inner must be an optimizer of one worker, got one with a compressor in'
      ' it: gl.compress_gradients and gl.average_gradients belong into outer.'
    )
  if find_local(inner_state) or find_local(outer_state):
    raise ValueError(
      'inner and outer must not contain local_updates: use one of them.'
    )


def _check_given(state: Any, updates: Updates) -> None:
  """Raises for another state, or gradients that are already averaged."""
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


def _zeros(x: Array) -> Array:
  return jnp.zeros(
    jnp.shape(x), jnp.promote_types(jnp.result_type(x), jnp.float32)
  )


def _zeros_like(x: Array) -> Array:
  """Zeros of the same type, also in what JAX says it varies over."""
  zeros = jnp.zeros(x.shape, x.dtype)
  missing = worker_axes.varying_axes(x) - worker_axes.varying_axes(zeros)
  return (
    jax.lax.pcast(zeros, tuple(missing), to='varying') if missing else zeros
  )


def _check_averaged(updates: Updates, count: Array) -> None:
  """Raises if JAX's types say that the workers' updates differ."""
  expected = worker_axes.varying_axes(count)
  for path, x in jax.tree_util.tree_leaves_with_path(updates):
    if axes := sorted(worker_axes.varying_axes(x) - expected):
      raise ValueError(
        f'The update of {checks.path_name(path)!r} differs over {axes}, because'
        ' outer does not average it: begin outer with gl.compress_gradients or'
        ' gl.average_gradients over that axis.'
      )
