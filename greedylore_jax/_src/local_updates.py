"""When to send: workers take local steps, then average how far they moved."""

import contextlib
import functools
from typing import Any, NamedTuple
import warnings

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks, round_end
from greedylore_jax._src.engine import fragments as fragments_lib
from greedylore_jax._src.engine.round_length import Length, Rule, SelSync
from greedylore_jax._src.state import checkpoint, compress_state, per_worker
from greedylore_jax._src.state.local_state import (
  InFlight,
  LocalUpdatesState,
  check_given,
  find_local,
  local_params,
)
from greedylore_jax._src.state.per_worker import PerWorker
from greedylore_jax._src.types import (
  Array,
  AxisName,
  Function,
  OptState,
  Params,
  PyTree,
  Updates,
)
from greedylore_jax._src.wire import worker_axes
from greedylore_jax._src.wire.transport import Transport, all_finite


class _NotGiven:
  """The default of an argument for which None has a meaning."""

  def __repr__(self) -> str:
    return '<not given>'


_UNKNOWN_AXIS: Any = _NotGiven()


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
  every: Length,
  start_step: int = 0,
  total_steps: int | None = None,
  fragments: int = 1,
  delay: int = 0,
  average_moments: int = 0,
  axis_name: AxisName = _UNKNOWN_AXIS,
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
      and continues with the outer optimizer: `optax.sgd(1.0)` is plain
      averaging, `optax.sgd(0.7, momentum=0.9, nesterov=True)` that of DiLoCo,
      for runs of many long rounds.
    every: H, the steps in a round, or a rule such as `QSR` or `SelSync`. Higher
      sends less and lets the workers move further apart.
    start_step: in the first `start_step` steps, every step is a round.
    total_steps: the length of the run, whose last step then ends a round. None
      is no end; steps after the last round are not part of x.
    fragments: groups of leaves, of about equal size. Each is averaged every H
      steps and at its own time, so that no step after `start_step`, except the
      last of `total_steps`, sends more than about 1 / fragments of a round.
      Each has its own state of `outer`, which must not mix leaves of different
      groups.
    delay: steps between the end of a round and the update of x, fewer than in a
      round. Workers take local steps in the meantime, which count: y_i becomes
      the new x plus what worker i moved since it sent. Rounds of `start_step`
      and the last one do not wait. The step that ends a round still waits for
      its message, so a delay by itself hides no time.
    average_moments: rounds after which the workers also average the inner
      optimizer's state (its floating-point numbers), sent in full; 0 never
      does. Lower sends more.
    axis_name: mesh axis (or tuple of axes) of the workers, needed for `SelSync`
      and `average_moments`, which send on their own.

  Returns:
    An `optax.GradientTransformation` whose state is a `LocalUpdatesState`. Its
    updates are equal on all workers, and zero between rounds. Extra arguments
    reach `inner` in every step, and `outer` in those that end a round.

  Raises:
    ValueError, TypeError: for arguments out of range; when traced, if `outer`
      does not average, and as `compress_gradients`.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = gl.local_updates(
    ...     optax.adamw(1e-3),
    ...     outer=optax.chain(
    ...         gl.compress_gradients(gl.PowerSGD(32), 'data'),
    ...         optax.sgd(1.0),
    ...     ),
    ...     every=30,
    ... )

  References:
    DiLoCo, arXiv 2311.08105 (2023), Algorithm 1; here with any compressor.
    Fragments: Streaming DiLoCo, arXiv 2501.18512 (2025). Averaged moments:
    DES-LoC, arXiv 2505.22549 (2025).
  """
  rule = Rule(every, start_step, total_steps)
  after_round: Function | None = None
  if isinstance(inner, RoundOptimizer):
    *functions, after_round = inner
    inner = optax.GradientTransformation(*functions)
    if delay:
      raise ValueError(
        'An inner optimizer that learns from rounds, such as that of lordo,'
        f' needs their outcome at once, got delay={delay}: leave it at 0.'
      )
  for name, tx in (('inner', inner), ('outer', outer)):
    if not isinstance(tx, optax.GradientTransformation):
      raise TypeError(
        f'{name} must be an optax.GradientTransformation, got {tx!r}.'
      )
  checks.check_integer('fragments', fragments)
  checks.check_integer('average_moments', average_moments, at_least=0)
  rule.check_delay(delay)
  communicates = bool(average_moments) or isinstance(every, SelSync)
  if communicates and axis_name is _UNKNOWN_AXIS:
    raise TypeError(
      'SelSync and average_moments communicate, so local_updates needs the'
      " workers' axis_name, got none: pass the one that outer uses."
    )
  inner = optax.with_extra_args_support(inner)
  outer = optax.with_extra_args_support(outer)
  ahead = rule.ahead(fragments)

  def init(params: Params) -> LocalUpdatesState:
    inner_state = inner.init(params)
    if fragments > 1:
      # A fragment may have nothing to compress, but not all of them. What there
      # is to warn of, they say one by one.
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        jax.eval_shape(outer.init, params)
    outer_states = tuple(
      outer.init(fragments_lib.take(params, members))
      for members in fragments_lib.assign(params, fragments)
    )
    _check_parts(inner_state, outer_states)
    # Each in its own buffer, as a step that donates them requires.
    zeros: Function = lambda: per_worker.of(jax.tree.map(_zeros, params))
    in_flight: Any = ()
    if delay:
      moves = jax.tree.map(jnp.zeros_like, params)
      in_flight = InFlight(jnp.zeros(fragments, jnp.int32), moves, zeros())
    return LocalUpdatesState(
      count=jnp.zeros([], jnp.int32),
      since=jnp.array(ahead, jnp.int32),
      rounds=jnp.zeros(fragments, jnp.int32),
      delta=zeros(),
      inner=per_worker.of(inner_state),
      outer=outer_states,
      in_flight=in_flight,
      norm=per_worker.of(jnp.float32(0)) if isinstance(every, SelSync) else (),
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
    check_given(state, updates, params)
    if communicates:
      worker_axes.num_workers(axis_name)  # Raises if there is no such axis.
    count = state.count
    ends: Array = rule.is_end(state.since + 1, count)
    norm = state.norm
    if isinstance(every, SelSync) and isinstance(norm, PerWorker):
      asks, own_norm = every.asks(norm.own, updates)
      with jax.named_scope('greedylore.local'):
        (share,) = Transport(axis_name).mean([asks.astype(jnp.float32)])
      ends, norm = ends | (share > 0), per_worker.of(own_norm)
      _check_agreed(ends, count, axis_name)
    delta, moments = _local_step(inner, updates, state, params, extra)
    if average_moments:
      is_due = ends[0] & ((state.rounds[0] + 1) % average_moments == 0)
      moments = _averaged_if(is_due, moments, axis_name)

    groups = fragments_lib.assign(params, fragments)
    waits = delay and ~((count < start_step) | rule.is_last(count))
    averaging = optax.GradientTransformationExtraArgs(
      outer.init, functools.partial(outer.update, **extra)
    )
    moved, held = [], []
    for i, members in enumerate(groups):
      own: Function = functools.partial(fragments_lib.take, members=members)
      before = round_end.Held(own(delta), state.outer[i])
      if isinstance(state.in_flight, InFlight):
        left, moves, sent = state.in_flight
        before = before._replace(
          left=left[i], moves=own(moves), sent=own(sent.own)
        )
      end = round_end.RoundEnd(averaging, ends[i], delay, waits)
      with _scope(i, fragments):
        new = end(before, own(params), count)
      moved.append(new[0])
      held.append(new[1])

    merged: Function = lambda parts: fragments_lib.merge(parts, groups, params)
    if after_round is not None:
      moments = _learned_if(jnp.any(ends), after_round, moments, merged(moved))
    in_flight: Any = ()
    if delay:
      in_flight = InFlight(
        left=jnp.stack([x.left for x in held]),
        moves=merged([x.moves for x in held]),
        sent=per_worker.of(merged([x.sent for x in held])),
      )
    first = jnp.where(count < start_step, jnp.array(ahead, jnp.int32), 0)
    return merged(moved), LocalUpdatesState(
      count=count + 1,
      since=jnp.where(ends, first, state.since + 1),
      rounds=state.rounds + ends,
      delta=per_worker.of(merged([x.delta for x in held])),
      inner=per_worker.of(moments),
      outer=tuple(x.outer for x in held),
      in_flight=in_flight,
      norm=norm,
    )

  return optax.GradientTransformationExtraArgs(init, update)


def _scope(i: int, count: int) -> Any:
  """Says in the compiled program which of several fragments it is."""
  if count == 1:
    return contextlib.nullcontext()
  scope = f'greedylore.{fragments_lib.SCOPE}{i + 1}of{count}'
  return jax.named_scope(scope)


def _local_step(
  inner: optax.GradientTransformationExtraArgs,
  updates: Updates,
  state: LocalUpdatesState,
  params: Params,
  extra: dict[str, Any],
) -> tuple[PyTree, OptState]:
  """The delta and inner state after a step of this worker on its own."""
  local = local_params(params, state)
  moves, moments = inner.update(updates, state.inner.own, local, **extra)
  finite = all_finite(jax.tree.leaves(moves))
  keep = lambda new, old: jnp.where(finite, new, old)
  delta = jax.tree.map(
    lambda d, move: jnp.where(finite, d + move.astype(d.dtype), d),
    state.delta.own,
    moves,
  )
  return delta, jax.tree.map(keep, moments, state.inner.own)


def _averaged_if(
  is_due: Array, moments: OptState, axis_name: AxisName
) -> OptState:
  """The inner state with its floating-point numbers averaged, if it is due."""
  leaves, treedef = jax.tree.flatten(moments)
  floating = [
    i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)
  ]

  def average(own: list[Array]) -> list[Array]:
    # A moment that overflowed divides its step, so nothing has noticed it yet.
    own = [jnp.where(jnp.isfinite(x), x, 0) for x in own]
    with jax.named_scope('greedylore.moments'):
      means = Transport(axis_name).mean(own)
    return list(map(worker_axes.varying_like, means, own))

  own = [leaves[i] for i in floating]
  means = jax.lax.cond(is_due, average, lambda own: own, own)
  for i, mean in zip(floating, means, strict=True):
    leaves[i] = mean
  return jax.tree.unflatten(treedef, leaves)


def _learned_if(
  is_due: Array, after_round: Function, moments: OptState, moved: Updates
) -> OptState:
  """The inner state after what x has received, if a round has ended."""

  def learn(moments: OptState) -> OptState:
    new = after_round(moments, moved)
    # All zeros is what a round gives whose outcome was not finite.
    has_moved = jnp.array(False)
    for x in jax.tree.leaves(moved):
      has_moved |= jnp.any(x != 0) if x.size else False
    keep: Function = lambda new, old: worker_axes.varying_like(
      jnp.where(has_moved, new, old), old
    )
    return jax.tree.map(keep, new, moments)

  return jax.lax.cond(is_due, learn, lambda moments: moments, moments)


def _check_agreed(ends: Array, count: Array, axis_name: AxisName) -> None:
  """Raises if JAX's types say that a round may end for some workers only."""
  varying = worker_axes.varying_axes
  if axes := sorted(varying(ends) - varying(count)):
    raise ValueError(
      f'SelSync needs the axis_name of all workers, {axes}, got'
      f' axis_name={axis_name!r}, so some of them would end a round alone: pass'
      ' the axis_name that outer uses.'
    )


def _check_parts(
  inner_state: OptState, outer_states: tuple[OptState, ...]
) -> None:
  """Raises if something is inside of the wrong transformation."""
  if checkpoint.holds_state(inner_state):
    raise ValueError(
      'inner must be an optimizer of one worker, got one with a compressor in'
      ' it: gl.compress_gradients and gl.average_gradients belong in outer.'
    )
  if find_local(inner_state) or find_local(outer_states):
    raise ValueError(
      'inner and outer must not contain local_updates: use one of them.'
    )
  for outer in outer_states:
    links = outer if type(outer) is tuple else (outer,)
    if len(links) == 1 and compress_state.is_state(links[0]):
      raise ValueError(
        'outer must be a chain that ends with an optimizer, got a compressor'
        ' alone, so x would move away from the workers: chain'
        ' optax.sgd(1.0), which is plain averaging, behind it.'
      )


def _zeros(x: Array) -> Array:
  return jnp.zeros(
    jnp.shape(x), jnp.promote_types(jnp.result_type(x), jnp.float32)
  )
