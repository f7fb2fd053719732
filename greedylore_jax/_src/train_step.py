"""The training step around the transformation: local gradients and the mesh."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks, gradients
from greedylore_jax._src.mesh_step import TrainStep
from greedylore_jax._src.report.diagnostics import Observer
from greedylore_jax._src.state import checkpoint, placement, restore
from greedylore_jax._src.state.local_state import find_local, local_params
from greedylore_jax._src.types import (
  Array,
  AxisName,
  Function,
  OptState,
  Params,
  PyTree,
  Spec,
  Updates,
)
from greedylore_jax._src.wire import inner_axes, worker_axes
from greedylore_jax._src.wire.transport import Transport

_P: Any = jax.sharding.PartitionSpec


def make_train_step(
  loss_fn: Function,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  axis_name: AxisName,
  has_aux: bool = False,
  accumulate_steps: int = 1,
  steps_per_call: int = 1,
  donate: bool = True,
  diagnose: bool = False,
) -> TrainStep:
  """A whole data-parallel training step, jitted.

  Args:
    loss_fn: `loss_fn(params, batch, *args)` -> scalar mean loss of that part of
      the batch, or (loss, aux) with `has_aux`. If the step is given a key, it
      comes last: `loss_fn(params, batch, *args, key)`.
    tx: a chain that begins with `compress_gradients` or `average_gradients`
      over the same axis, and needs gradients, state and parameters only (what
      needs the loss, such as `optax.contrib.reduce_on_plateau`, needs a custom
      step). Parts of the parameters may be frozen by `optax.partition` with
      `optax.set_to_zero`; nothing is sent for them.
    mesh: the devices, one worker for each index along `axis_name`. If it has
      other axes, XLA's partitioner may use these to divide the work of each
      worker, as parameters and batch are sharded.
    axis_name: mesh axis (or tuple of axes) of the workers.
    has_aux: whether `loss_fn` also returns a tree of arrays; its mean over
      workers (and micro-batches) is returned with the loss.
    accumulate_steps: micro-batches into which a worker cuts its part of the
      batch. Their gradients are averaged before anything is sent, so more of
      them save memory and cost no bytes.
    steps_per_call: steps that one call takes, in a `jax.lax.scan`, which saves
      the time of starting them. The batch of each step is an entry of a new
      leading axis: leaves are [steps_per_call, batch, ...].
    donate: whether the step reuses the memory of the parameters and the state
      that it is given; do not use these again. False keeps them and
      needs that much more memory.
    diagnose: whether to return the `Diagnostics` of each step; they are sent
      with the loss, 12 bytes per compressed leaf, and need error feedback.

  Returns:
    `step(params, opt_state, batch, *args, key=None)` -> (params, opt_state,
    loss), or with `has_aux` (params, opt_state, (loss, aux)); with `diagnose`
    the last of them is a pair of that and `Diagnostics`. Leaves of `batch` have
    a leading axis that is divided over the workers. `args` are equal on all
    workers. From `key`, a PRNG key for dropout and the like, every worker and
    micro-batch gets its own; pass a new one in every call. The loss is the mean
    over all workers and, like the parameters, equal everywhere; with
    `local_updates` it is [num_workers], one per worker. With `steps_per_call`
    above 1, losses and what comes with them have a leading axis of steps.
    `step.lower(...)` works as for any jitted function.

  Raises:
    ValueError: if the other axes of the mesh are not left to the partitioner
      (`AxisType.Auto`); when called, if the batch does not divide over workers
      and micro-batches, the state is that of another number of workers or of
      another configuration, parameters are sharded over the workers, or `tx`
      does not average all of them.

  Example:
    >>> import greedylore_jax as gl, jax, jax.numpy as jnp, optax
    >>> mesh = jax.make_mesh(
    ...     (1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> tx = optax.chain(gl.greedylore(2, 'data'), optax.sgd(0.1))
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2)
    >>> params = jnp.ones((8, 16))
    >>> opt_state = gl.init_state(tx, params, mesh, axis_name='data')
    >>> step = gl.make_train_step(loss_fn, tx, mesh, axis_name='data')
    >>> params, opt_state, loss = step(params, opt_state, jnp.ones((4, 8)))
    >>> float(loss)
    64.0
  """
  checks.check_integer('accumulate_steps', accumulate_steps)
  checks.check_integer('steps_per_call', steps_per_call)
  checks.check_bool('diagnose', diagnose)
  workers = placement.workers_on(mesh, axis_name)
  grad_fn = gradients.value_and_local_grad(loss_fn, axis_name, has_aux)
  local_step = _LocalStep(
    grad_fn=gradients.accumulate(grad_fn, accumulate_steps),
    tx=optax.with_extra_args_support(tx),
    axis_name=axis_name,
    diagnose=diagnose,
  )

  def step(
    held: tuple[Spec, ...],
    params: Params,
    opt_state: OptState,
    batch: PyTree,
    *args: PyTree,
    key: Array | None = None,
  ) -> tuple[Params, OptState, Any]:
    _check_wrappers(opt_state)
    checkpoint.check_num_workers(opt_state, workers)
    restore.check_fits(opt_state, tx, params)
    for (path, _), spec in zip(
      jax.tree_util.tree_leaves_with_path(params), held, strict=False
    ):
      placement.check_spec(path, spec, axis_name)
    states = placement.state_partition_specs(opt_state, axis_name)
    is_local = find_local(opt_state) is not None
    if is_local and diagnose:
      raise ValueError(
        'diagnose=True sends in every step, got local_updates, which must not:'
        ' leave diagnose at False.'
      )
    sharded: Function = jax.shard_map(
      functools.partial(local_step, _without(held, axis_name)),
      mesh=mesh,
      axis_names=_manual(mesh, axis_name),
      in_specs=(_P(), states, _P(axis_name), (_P(), _P())),
      out_specs=(_P(), states, _P(axis_name) if is_local else _P()),
    )
    if steps_per_call == 1:
      result: tuple[Params, OptState, Any] = sharded(
        params, opt_state, batch, (args, key)
      )
      return result

    def one(held: Any, now: tuple[Array, PyTree]) -> tuple[Any, Any]:
      i, batch = now
      own = None if key is None else jax.random.fold_in(key, i)
      params, opt_state, value = sharded(*held, batch, (args, own))
      return (params, opt_state), value

    steps = jnp.arange(steps_per_call), batch
    (params, opt_state), values = jax.lax.scan(one, (params, opt_state), steps)
    return params, opt_state, values

  donated = (1, 2) if donate else ()
  jitted = jax.jit(step, donate_argnums=donated, static_argnums=0)
  return TrainStep(jitted, mesh, axis_name, accumulate_steps, steps_per_call)


@dataclasses.dataclass(frozen=True)
class _LocalStep:
  """What each worker does in a step, inside `jax.shard_map`."""

  grad_fn: Function
  tx: optax.GradientTransformationExtraArgs
  axis_name: AxisName
  diagnose: bool

  def __call__(
    self,
    specs: Sequence[Spec],
    params: Params,
    opt_state: OptState,
    batch: PyTree,
    extra: tuple[tuple[PyTree, ...], Array | None],
  ) -> tuple[Params, OptState, Any]:
    args, key = extra
    if key is not None and self.axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
    is_local = find_local(opt_state) is not None
    local = local_params(params, opt_state)
    try:
      value, grads = self.grad_fn(local, batch, args, key)
    except (TypeError, ValueError) as error:
      _check_equal_lengths(batch, error)
      raise
    grads = _constrain(grads, specs[: len(jax.tree.leaves(grads))])
    observer = Observer()
    observed = {'observe': observer} if self.diagnose else {}

    def update(grads: Updates) -> tuple[Updates, OptState]:
      observer.forget()  # It may be called again, see `_update`.
      result: tuple[Updates, OptState] = self.tx.update(
        grads, opt_state, params, **observed
      )
      return result

    updates, new_state = _update(update, grads, self.axis_name)
    _check_equal(new_state, opt_state, self.axis_name)
    new_params = optax.apply_updates(params, updates)
    if self.diagnose:
      value = value, observer.energies()
    value = gradients.widened(value)
    if is_local:  # A mean would communicate in every step.
      value = jax.tree.map(lambda x: x[None], value)
    else:
      leaves, treedef = jax.tree.flatten(value)
      means = Transport(self.axis_name).mean(leaves)
      value = jax.tree.unflatten(treedef, means)
    if self.diagnose:
      value, energies = value
      value = value, observer.diagnostics(energies)
    new_params, new_state = _constrain((new_params, new_state), specs)
    return new_params, new_state, value


def _check_equal_lengths(batch: PyTree, error: Exception) -> None:
  """Raises if a loss may have failed because batch leaves do not match.

  Leaves of unequal length are allowed: it is the loss that combines them.
  """
  lengths = {
    checks.path_name(path): x.shape[0]
    for path, x in jax.tree_util.tree_leaves_with_path(batch)
  }
  if len({*lengths.values()}) > 1:
    found = ', '.join(f'{n} in {name!r}' for name, n in lengths.items())
    reason = str(error).partition('\n')[0]
    raise ValueError(
      'All leaves of the batch should have the same leading axis, got for each'
      f' worker {found}, and loss_fn failed on them: {reason}'
    ) from error


def _update(
  update: Function, grads: Updates, axis_name: AxisName
) -> tuple[Updates, OptState]:
  """(updates, state) of `tx`, whose updates are equal on all workers.

  A leaf that is frozen by `optax.set_to_zero` has an update of zeros that JAX
  types as varying, since it has the gradient's type. It does not depend on the
  gradient, so it is computed from a gradient of zeros that is equal on all.
  """
  updates, state = update(grads)
  varying = [_varies(x, axis_name) for x in jax.tree.leaves(updates)]
  if not any(varying):
    return updates, state
  depends = _depends(lambda grads: update(grads)[0], grads)
  leaves = jax.tree.leaves(grads)
  treedef: Any = jax.tree.structure(grads)
  paths = [
    checks.path_name(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(updates)
  ]
  for path, is_varying, does in zip(paths, varying, depends, strict=True):
    if is_varying and does:
      raise ValueError(
        f'The update of {path!r} differs between workers, because nothing in'
        ' tx averages it. Begin the chain with'
        f' gl.compress_gradients(..., {axis_name!r}) or'
        f' gl.average_gradients({axis_name!r}), for all parameters; freeze'
        ' those that are not trained with optax.set_to_zero or gl.Frozen.'
      )
  averaged = [
    jnp.zeros(x.shape, x.dtype) if is_varying else x
    for x, is_varying in zip(leaves, varying, strict=True)
  ]
  updates, state = update(treedef.unflatten(averaged))
  return updates, state


def _depends(function: Function, argument: PyTree) -> list[bool]:
  """For each leaf of the result whether it may depend on the argument."""
  jaxpr = jax.make_jaxpr(function)(argument).jaxpr
  known = set(jaxpr.invars)
  # Literals have values.
  uses: Function = lambda x: not hasattr(x, 'val') and x in known
  for equation in jaxpr.eqns:
    if any(map(uses, equation.invars)):
      known.update(equation.outvars)
  return [uses(x) for x in jaxpr.outvars]


def _without(specs: Sequence[Spec], axis_name: AxisName) -> list[Spec]:
  """Specs as they are on one worker, which are of the inner axes only."""
  workers = worker_axes.names(axis_name)
  inner = lambda entry: tuple(
    axis for axis in worker_axes.names(entry) if axis not in workers
  )
  return [spec and _P(*map(inner, spec)) for spec in specs]


def _manual(mesh: jax.sharding.Mesh, axis_name: AxisName) -> frozenset[str]:
  """The workers' axes; all of the mesh if the others have one device.

  XLA on CPU cannot compile a mean of 16-bit numbers if other axes are left to
  its partitioner.
  """
  workers = frozenset(worker_axes.names(axis_name))
  several = any(mesh.shape[axis] > 1 for axis in {*mesh.shape} - workers)
  return workers if several else frozenset(mesh.shape)


def _constrain(tree: PyTree, specs: Sequence[Spec]) -> PyTree:
  """Shards a tree as the specs of its leaves say; None leaves one alone."""
  leaves, treedef = jax.tree.flatten(tree)
  return jax.tree.unflatten(
    treedef,
    [
      x if spec is None else inner_axes.constrain(x, *spec)
      for x, spec in zip(leaves, specs, strict=True)
    ],
  )


def _varies(x: Array, axis_name: AxisName) -> bool:
  """Whether JAX's types say that it may differ between workers."""
  missing = worker_axes.missing_axes(x, axis_name)
  return len(missing) < len(worker_axes.names(axis_name))


def _check_equal(new: OptState, old: OptState, axis_name: AxisName) -> None:
  """Raises if state that should be equal on all workers is not."""
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(old), strict=False
  )
  for (path, x), before in pairs:
    if _varies(x, axis_name) and not _varies(before, axis_name):
      raise ValueError(
        f'The optimizer state at {checks.path_name(path)!r} would differ'
        ' between workers, because it is made of gradients that are not yet'
        ' averaged: put gl.compress_gradients or gl.average_gradients first'
        ' in the chain.'
      )


def _check_wrappers(opt_state: OptState) -> None:
  """Raises if the compressor is inside of what calls it conditionally."""
  remedies = {
    optax.MultiStepsState: 'optax.MultiSteps, which would communicate in'
    ' every micro-step: use make_train_step(accumulate_steps=...) instead',
    optax.ApplyIfFiniteState: 'optax.apply_if_finite: put that around what'
    ' follows the compressor in the chain. The compressor has to run on every'
    ' worker, and leaves its state alone if anything is not finite',
  }

  def one(x: Any) -> None:
    for kind, remedy in remedies.items():
      if isinstance(x, kind) and checkpoint.holds_state(x):
        raise ValueError(f'compress_gradients must not be inside of {remedy}.')

  kinds = tuple(remedies)
  jax.tree.map(one, opt_state, is_leaf=lambda x: isinstance(x, kinds))
