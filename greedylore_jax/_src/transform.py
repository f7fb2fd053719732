"""Compressed averaging of gradients as an optax transformation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks as _checks
from greedylore_jax._src.engine import exchange as _exchange
from greedylore_jax._src.engine import feedback as _feedback
from greedylore_jax._src.engine import policy as _policy
from greedylore_jax._src.state import compress_state as _state
from greedylore_jax._src.wire import worker_axes as _axes


def compress_gradients(
  compressor: _policy.Compressors,
  axis_name: _axes.AxisName,
  *,
  start_step: int = 0,
  error_feedback: _feedback.Kind = True,
  min_compression_rate: float = 1.0,
  weight_dimension_numbers: Any = None,
  error_dtype: Any = None,
  factor_dtype: Any = None,
  stagger: bool = False,
  share_decompositions: bool = False,
  seed: int = 0,
) -> optax.GradientTransformation:
  """Averages local gradients over the workers, sending a compressed form.

  Takes each worker's own gradients and gives all of them the same update, so
  it stands first in a chain; clipping, momentum, Adam and weight decay follow
  and see what they would see in a dense run. All leaves travel together: one
  all-reduce per round of the compressor and dtype.

  With G_i the gradient of worker i, E_i its error and C the compressor:

    H_i = G_i + E_i,   (update, S_i) = C(H_1 .. H_N),   E_i <- H_i - S_i.

  With error feedback, mean_i G_i + mean_i E_i is conserved: it equals the
  update plus the new mean_i E_i at every step, up to the rounding of the dtypes
  that travel and are stored.

  If anything received or to be remembered is not finite, because of any worker,
  the updates of all are NaN and the state stays as it was: to skip such a step,
  put `optax.apply_if_finite` around what follows in the chain (not around this,
  which must run on every worker).

  Args:
    compressor: the method, such as `GreedyLore(rank=32)`, or an ordered list
      [('embed|head', GreedyLore(64, 20)), ('', PowerSGD(32))]: of the patterns
      (regular expressions, searched for in paths such as 'blocks/0/query') the
      first that matches a leaf holds. `Frozen()` sends nothing for a leaf.
    axis_name: mesh axis (or tuple of axes) over which the workers lie; None
      for one worker and no communication.
    start_step: dense steps before compression starts. More cost bytes early
      on and give the optimizer's moments a better start.
    error_feedback: True or 'ef14' keeps what was not sent and adds it to the
      next gradient, as above. 'ef21' sends what the gradient differs by from
      what the workers know of it, and the update is all that they know: C acts
      on G_i - D_i, D_i <- D_i + S_i, update = mean_i D_i; then `error` holds
      -D_i. False forgets: the update is biased; only for ablations.
    min_compression_rate: a matrix is compressed only if that sends fewer than
      1 / min_compression_rate of its bytes in a compressed step, as one of two
      workers sends them. 0 compresses whatever is a matrix.
    weight_dimension_numbers: a tree of `optax.contrib.MuonDimensionNumbers` (a
      matrix; axes not named are a stack of matrices) and None (stays dense)
      that covers the parameters, a prefix of such a tree, or a function from
      parameters to it; or a list of (pattern of paths, numbers or None), where
      a leaf that no pattern matches is decided by default. None decides all by
      shape and name: 2-D leaves are matrices; further axes in front are a stack
      [layers, rows, columns], if it has fewer matrices than a matrix has rows;
      convolution kernels are matrices, HWIO or OIHW; biases and gains of norms
      are none. If that leaves several readings,
      as for a projection to heads [512, 8, 64], the leaf stays dense and `init`
      warns, with the numbers that would compress it. `print(plan(...))` shows
      what each leaf is.
    error_dtype: dtype of the stored errors; None is float32, or the parameter's
      if that has more. A lower one saves memory and forgets the rounding.
    factor_dtype: dtype in which compressed leaves' messages travel in
      compressed steps; None is the gradient's. What a lower one rounds away
      goes into the error, but for what a sum of floating numbers rounds.
      (XLA widens 16-bit all-reduces to float32 on CPU. float16 ends at 65,504;
      bfloat16 has float32's range.) int8 and int16 scale each row or column,
      for which a small round goes ahead; N workers share their range, so a step
      of int8 is N / 127 of the row's largest entry. What is gathered travels as
      it is.
    stagger: refreshes the leaves by turns, one in a step at most, rather than
      all together, so that no step sends more than a compressed one and one
      leaf (but for the first, which refreshes all). For each leaf the method
      is the same, at other steps. Needs at least as many steps in an
      `update_interval` as there are leaves, and one program per shape of leaf.
    share_decompositions: each matrix of a refresh is decomposed by one of the
      workers, who sends the others its basis: a * a numbers more, in place of
      N times the work. Pays where links are fast or matrices large. Not where
      a worker is several devices.
    seed: of the compressor's random numbers, which are equal on all workers.

  Returns:
    An `optax.GradientTransformation` whose state is a `CompressState`. The
    update has the gradients' structure, shapes and dtypes.

  Raises:
    ValueError, TypeError: here, for settings out of range; in `init`, for
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
    EF21: Richtarik, Sokolov, Fatkhullin, arXiv 2106.05203 (2021), Algorithm 2.
    Integers that can be added up: IntSGD, arXiv 2102.08374 (2021).
    The recursion: GreedyLore, arXiv 2507.08784 (2025), Algorithm 2.
  """
  _checks.check_integer('seed', seed, at_least=0)
  policy = _policy.Policy(
    compressor,
    start_step=start_step,
    error_feedback=error_feedback,
    min_compression_rate=min_compression_rate,
    weight_dimension_numbers=weight_dimension_numbers,
    error_dtype=error_dtype,
    factor_dtype=factor_dtype,
    stagger=stagger,
    share_decompositions=share_decompositions,
  )

  def update_fn(updates, state, params=None, *, observe=None, **extra):
    del params, extra
    leaves = policy.leaves(updates)
    new_updates, new_state = _average(
      policy, leaves, axis_name, seed, updates, state
    )
    if observe is not None:
      observe(leaves, updates, state, new_state)
    return new_updates, new_state

  return optax.GradientTransformationExtraArgs(
    functools.partial(_state.fresh, policy), update_fn
  )


def _average(policy, leaves, axis_name, seed, updates, state):
  """One step: local gradients and state in, what all workers get and state."""
  workers = _axes.num_workers(axis_name)
  _state.check(policy, leaves, state, updates)
  treedef: Any = jax.tree.structure(updates)
  grads = list(map(jnp.asarray, treedef.flatten_up_to(updates)))
  errors = treedef.flatten_up_to(state.error)
  memories = treedef.flatten_up_to(state.memory)
  _check_local(leaves, grads, state.count, axis_name)
  _check_errors(leaves, errors, grads, axis_name)
  exchange = _exchange.Exchange(policy, leaves, axis_name, workers)
  key = jax.random.fold_in(jax.random.key(seed), state.count)
  with jax.default_matmul_precision('highest'):
    stepped = exchange(grads, errors, memories, state.count, key)
  counted = optax.safe_increment(state.count)
  if not _axes.varying_axes(stepped.finite) - _axes.varying_axes(state.count):
    counted = jnp.where(stepped.finite, counted, state.count)
  new_state = state._replace(
    count=counted,
    error=treedef.unflatten(stepped.errors),
    memory=treedef.unflatten(stepped.memories),
  )
  return treedef.unflatten(stepped.updates), new_state


def _check_local(leaves, grads, count, axis_name) -> None:
  """Raises if JAX's types say that a gradient is the same on all workers.

  Or that it would not be the same on all of them afterwards. Dense leaves may
  differ over other axes: what follows in the chain can average over those.
  """
  for leaf, g in zip(leaves, grads, strict=True):
    if leaf.frozen:
      continue
    apart = _axes.varying_axes(g) - _axes.varying_axes(count)
    others = sorted(apart.difference(_axes.names(axis_name)))
    if others and leaf.matrices is not None:
      every = (*_axes.names(axis_name), *others)
      raise ValueError(
        f'The gradient of {leaf.path!r} differs over the mesh axes {others},'
        f' but axis_name={axis_name!r} does not average over them. Use'
        f' axis_name={every} to compress over all of them, or put'
        f' gl.average_gradients({_only(others)!r}) before this in the chain.'
      )
    if axes := _axes.missing_axes(g, axis_name):
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


def _only(names):
  """The name itself if there is one, else all of them."""
  return names[0] if len(names) == 1 else tuple(names)


def _check_errors(leaves, errors, grads, axis_name) -> None:
  """Raises unless every error is one worker's own."""
  for leaf, error, g in zip(leaves, errors, grads, strict=True):
    if not jax.tree.leaves(error):
      continue
    if error.shape != (1, *leaf.shape):
      problem = f'have shape {(1, *leaf.shape)}, got {error.shape}'
    elif axes := _axes.missing_axes(error, axis_name):
      problem = f'be sharded over {axes}, got one that is equal on all workers'
    elif others := sorted(_axes.varying_axes(error) - _axes.varying_axes(g)):
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
