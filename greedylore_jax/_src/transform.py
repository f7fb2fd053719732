"""Compressed averaging of gradients as an optax transformation."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, Unpack

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.engine import policy as policy_lib
from greedylore_jax._src.engine.exchange import Given, exchange
from greedylore_jax._src.engine.leaf import CompressedLeaf, FrozenLeaf, Leaf
from greedylore_jax._src.engine.policy import Compressors, Policy, PolicyOptions
from greedylore_jax._src.state import compress_state
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.types import Array, AxisName, Params, PyTree, Updates
from greedylore_jax._src.wire import worker_axes
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.greedylore import GreedyLore


class Observe(Protocol):
  """Sees one compression: its leaves, gradients and states."""

  def __call__(
    self,
    leaves: Sequence[Leaf],
    grads: Updates,
    before: CompressState,
    after: CompressState,
  ) -> None:
    """Called once per trace of an update."""


def compress_gradients(
  compressor: Compressors,
  axis_name: AxisName,
  *,
  seed: int = 0,
  **options: Unpack[PolicyOptions],
) -> optax.GradientTransformation:
  """Averages local gradients over the workers, sending a compressed form.

  Takes each worker's own gradients and gives all of them the same update, so
  it stands first in a chain; clipping, momentum, Adam and weight decay follow.
  The update differs from the mean gradient by what error feedback delivers in
  later steps. All leaves are sent together: one all-reduce per communication
  round and dtype.

  With G_i the gradient of worker i, E_i its error and C the compressor:

    H_i = G_i + decay E_i,   (update, S_i) = C(H_1 .. H_N),   E_i <- H_i - S_i

  where decay is `error_decay`, 1 by default. With error feedback,
  mean_i G_i + decay mean_i E_i is conserved: it equals the update plus the new
  mean_i E_i at every step, up to the rounding of the dtypes that are sent and
  stored.

  If anything received is not finite, because of any worker, the updates of all
  are NaN and the state stays as it was: to skip such a step, put
  `optax.apply_if_finite` around what follows in the chain (not around this,
  which must run on every worker).

  Args:
    compressor: the method, such as `GreedyLore(rank=32)`, or an ordered list
      [('embed|head', GreedyLore(64, 20)), ('', PowerSGD(32))] of patterns
      (regular expressions that are searched for in paths such as
      'blocks/0/query') and methods. The first match decides. `Frozen()` sends
      nothing for a leaf. Update intervals must be nested: each a multiple of
      the next smaller one.
    axis_name: mesh axis (or tuple of axes) of the workers; None for one worker
      and no communication.
    seed: of the compressor's random numbers, which are equal on all workers.
    **options: see `PolicyOptions`.

  Returns:
    An `optax.GradientTransformation` whose state is a `CompressState`. The
    update has the gradients' structure, shapes and dtypes.

  Raises:
    ValueError, TypeError: here, for arguments out of range; in `init`, for
      dimension numbers that do not fit the parameters, a rank at which no
      matrix would shrink, or a compressor state of absurd size; when traced,
      for gradients that are already averaged over the axis, a state whose
      errors are not this worker's own, or one of another configuration.
    NameError: when traced where `axis_name` is not bound.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp, optax
    >>> tx = gl.compress_gradients(gl.GreedyLore(rank=2), axis_name=None)
    >>> params = {'w': jnp.ones((8, 16)), 'b': jnp.ones(16)}
    >>> state = tx.init(params)
    >>> state.error['w'].shape, state.error['b']
    ((1, 8, 16), MaskedNode())
    >>> updates, state = tx.update(params, state)

  References:
    Error feedback: Seide et al. (2014); Karimireddy et al., arXiv 1901.09847.
    Integers that can be added up: IntSGD, arXiv 2102.08374 (2021).
    The recursion: GreedyLore, arXiv 2507.08784 (2025), Algorithm 2.
  """
  checks.check_axis_name(axis_name)
  checks.check_seed(seed)
  policy = Policy.of(compressor, **options)

  def init(params: Params) -> CompressState:
    leaves = policy.leaves(params)
    policy_lib.check_compresses(leaves, is_part=checks.is_part(params))
    return compress_state.fresh(leaves, params)

  def update(
    updates: Updates,
    state: CompressState,
    params: Params = None,
    *,
    observe: Observe | None = None,
    **extra: Any,
  ) -> tuple[Updates, CompressState]:
    del params, extra
    leaves = policy.leaves(updates)
    compress_state.check(leaves, state, updates)
    treedef: Any = jax.tree.structure(updates)
    given = Given(
      grads=list(map(jnp.asarray, treedef.flatten_up_to(updates))),
      errors=treedef.flatten_up_to(state.error),
      states=treedef.flatten_up_to(state.compressor_state),
      count=state.count,
      key=jax.random.fold_in(jax.random.key(seed), state.count),
    )
    worker_axes.num_workers(axis_name)
    _check_local(leaves, given.grads, state.count, axis_name)
    _check_errors(leaves, given.errors, given.grads, axis_name)
    with jax.default_matmul_precision('highest'):
      stepped = exchange(leaves, policy.schedule(leaves), given, axis_name)
    new_state = state._replace(
      count=_counted(state.count, stepped.finite),
      error=treedef.unflatten(stepped.errors),
      compressor_state=treedef.unflatten(stepped.states),
    )
    if observe is not None:
      observe(leaves, updates, state, new_state)
    return treedef.unflatten(stepped.updates), new_state

  return optax.GradientTransformationExtraArgs(init, update)


def greedylore(
  rank: int,
  axis_name: AxisName,
  *,
  update_interval: int = 200,
  probes: int | Literal['independent'] = 4,
  seed: int = 0,
  **options: Unpack[PolicyOptions],
) -> optax.GradientTransformation:
  """GreedyLore as an optax transformation: local gradients in, their mean out.

  Short for `compress_gradients(GreedyLore(rank, update_interval, probes),
  axis_name, ...)`. See `GreedyLore` for the method and its arguments,
  `PolicyOptions` for the other options, and `compress_gradients` for the
  returned state and the errors.

  A matrix of a x b numbers (a <= b) sends a * probes + rank * b of them in a
  compressed step, a * b in a refresh (every `update_interval` steps) and in
  each of the first `start_step` steps. `plan` adds this up for a model.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = optax.chain(
    ...     gl.greedylore(rank=32, axis_name='data'),
    ...     optax.clip_by_global_norm(1.0),
    ...     optax.adamw(3e-4),
    ... )

  References:
    GreedyLore, arXiv 2507.08784 (2025).
  """
  method = GreedyLore(rank, update_interval, probes)
  return compress_gradients(method, axis_name, seed=seed, **options)


def average_gradients(axis_name: AxisName) -> optax.GradientTransformation:
  """The dense baseline in the same place: every gradient is sent in full.

  Args:
    axis_name: mesh axis (or tuple of axes) of the workers; None for one.

  Returns:
    An `optax.GradientTransformation`; update = mean_i G_i, by one all-reduce
    per dtype.

  Example:
    >>> import greedylore_jax as gl, optax
    >>> tx = optax.chain(gl.average_gradients('data'), optax.sgd(0.1))
  """
  return compress_gradients(Dense(), axis_name)


def _counted(count: Array, finite: Array) -> Array:
  """The next count; the same one after a step that was not finite."""
  counted: Array = optax.safe_increment(count)
  if worker_axes.varying_axes(finite) - worker_axes.varying_axes(count):
    return counted
  return jnp.where(finite, counted, count)


def _check_local(
  leaves: Sequence[Leaf],
  grads: Sequence[Array],
  count: Array,
  axis_name: AxisName,
) -> None:
  """Raises if JAX's types say that a gradient is the same on all workers.

  Or that it would not be the same on all of them afterwards. If no leaf is
  compressed, gradients may differ over other axes: what follows in the chain
  can average over those.
  """
  compresses = any(isinstance(leaf, CompressedLeaf) for leaf in leaves)
  for leaf, g in zip(leaves, grads, strict=True):
    if isinstance(leaf, FrozenLeaf):
      continue
    apart = worker_axes.varying_axes(g) - worker_axes.varying_axes(count)
    others = sorted(apart.difference(worker_axes.names(axis_name)))
    if others and compresses:
      every = (*worker_axes.names(axis_name), *others)
      raise ValueError(
        f'The gradient of {leaf.path!r} differs over the mesh axes {others},'
        f' but axis_name={axis_name!r} does not average over them. Use'
        f' axis_name={every} to compress over all of them, or put'
        f' gl.average_gradients({_only(others)!r}) before this in the chain.'
      )
    if axes := worker_axes.missing_axes(g, axis_name):
      raise ValueError(
        f'The gradient of {leaf.path!r} is already averaged or summed over'
        f' {axes}, so there is nothing left to compress. Inside jax.shard_map'
        ' jax.grad sums over the mesh for parameters that are replicated:'
        f' use gl.value_and_local_grad(loss_fn, {axis_name!r}), or pass'
        f" jax.lax.pcast(params, {axis_name!r}, to='varying') to jax.grad. If"
        ' optax.MultiSteps is around this transformation, accumulate with'
        ' gl.make_train_step(..., accumulate_steps=...) instead; if another'
        ' compressor or mean over this axis comes before it in the chain,'
        ' remove one of them.'
      )


def _only(names: Sequence[str]) -> AxisName:
  """The name itself if there is one, else all of them."""
  return names[0] if len(names) == 1 else tuple(names)


def _check_errors(
  leaves: Sequence[Leaf],
  errors: Sequence[PyTree],
  grads: Sequence[Array],
  axis_name: AxisName,
) -> None:
  """Raises unless every error is one worker's own."""
  varying = worker_axes.varying_axes
  for leaf, error, g in zip(leaves, errors, grads, strict=True):
    if not jax.tree.leaves(error):
      continue
    if error.shape != (1, *leaf.shape):
      problem = f'have shape {(1, *leaf.shape)}, got {error.shape}'
    elif axes := worker_axes.missing_axes(error, axis_name):
      problem = f'be sharded over {axes}, got one that is equal on all workers'
    elif others := sorted(varying(error) - varying(g)):
      problem = (
        f'be sharded over axis_name={axis_name!r} only, got one for each'
        f' index of {others}, too'
      )
    else:
      continue
    raise ValueError(
      f'On each worker the error of {leaf.path!r} must {problem}. The errors'
      ' of N workers have a leading axis N that is sharded over them: create'
      ' the state with gl.init_state, or place a saved one with'
      ' gl.place_state, and take the specs for jax.shard_map from'
      ' gl.state_partition_specs.'
    )
