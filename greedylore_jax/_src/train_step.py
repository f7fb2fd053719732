"""The training step around the transformation: local gradients and the mesh."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks as _checks
from greedylore_jax._src import gradients as _gradients
from greedylore_jax._src.report import diagnostics as _diagnostics
from greedylore_jax._src.state import checkpoint as _elastic
from greedylore_jax._src.state import placement as _placement
from greedylore_jax._src.wire import inner_axes as _spread
from greedylore_jax._src.wire import transport as _transport
from greedylore_jax._src.wire import worker_axes as _axes

_P = jax.sharding.PartitionSpec


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """A jitted step that first puts parameters and batch onto the mesh.

  Arrays that are already on the mesh keep their sharding, and so do the
  results: parameters that are sharded over the devices of a worker stay so.
  Everything else is put there, parameters replicated and the batch divided over
  the workers. With several processes give global arrays: each has its part of a
  batch and joins them with `jax.make_array_from_process_local_data`.

  Attributes:
    jitted: the jitted function of what is on the mesh.
    mesh: the devices.
    axis_name: mesh axis (or tuple of axes) of the workers.
    accumulate_steps: micro-batches per step.

  Example:
    See `make_train_step`, which makes it.
  """

  jitted: Any
  mesh: jax.sharding.Mesh
  axis_name: _axes.AxisName
  accumulate_steps: int = 1

  def __call__(
    self, params: Any, opt_state: Any, batch: Any, *args: Any, key: Any = None
  ) -> Any:
    put = jax.device_put
    args, key = self._arguments(put, params, opt_state, batch, args, key)
    return self.jitted(*args, **key)

  def lower(
    self, params: Any, opt_state: Any, batch: Any, *args: Any, key: Any = None
  ) -> Any:
    """As `jax.jit(...).lower`, for arrays or `jax.ShapeDtypeStruct`s.

    What it compiles is called with the same arguments, already on the mesh.
    """
    describe = lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    )
    args, key = self._arguments(describe, params, opt_state, batch, args, key)
    return self.jitted.lower(*args, **key)

  def _arguments(self, put, params, opt_state, batch, args, key):
    """Everything on the mesh, after how it is sharded there, and the key."""
    _check_batch(
      batch,
      _placement.workers_on(self.mesh, self.axis_name),
      self.accumulate_steps,
    )
    specs = []

    def place(x, otherwise):
      given = getattr(x, 'sharding', None)
      sharding = _placement.on_mesh(self.mesh, given) or otherwise
      specs.append(sharding and sharding.spec)
      return x if sharding in (None, given) else put(x, sharding)

    def each(tree, spec):
      otherwise = jax.sharding.NamedSharding(self.mesh, spec)
      return jax.tree.map(lambda x: place(x, otherwise), tree)

    params = each(params, _P())
    opt_state = jax.tree.map(lambda x: place(x, None), opt_state)
    held = tuple(specs)
    batch = each(batch, _P(self.axis_name))
    if self.axis_name is None:
      _check_shared(specs, self.mesh)
    placed = held, params, opt_state, batch, *each(args, _P())
    return placed, {} if key is None else {'key': each(key, _P())}


def make_train_step(
  loss_fn: Callable[..., Any],
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  axis_name: _axes.AxisName,
  has_aux: bool = False,
  accumulate_steps: int = 1,
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
      wants the loss, such as `optax.contrib.reduce_on_plateau`, takes a step of
      your own). Parts of the parameters may be frozen by `optax.partition` with
      `optax.set_to_zero`; nothing is sent for them.
    mesh: the devices, one worker for each index along `axis_name`. If it has
      other axes, XLA's partitioner may use these to divide the work of each
      worker, as parameters and batch are sharded.
    axis_name: mesh axis (or tuple of axes) of the workers.
    has_aux: whether `loss_fn` also returns a tree of arrays; its mean over
      workers (and micro-batches) is returned beside the loss.
    accumulate_steps: micro-batches into which a worker cuts its part of the
      batch. Their gradients are averaged before anything is sent, so more of
      them save memory and cost no bytes.
    donate: whether the step reuses the memory of the parameters and the state
      that it is given; these must then not be used again. False keeps them and
      needs that much more memory.
    diagnose: whether to return the `Diagnostics` of each step; they travel with
      the loss, 12 bytes, and need error feedback.

  Returns:
    `step(params, opt_state, batch, *args, key=None)` -> (params, opt_state,
    loss), or with `has_aux` (params, opt_state, (loss, aux)); with `diagnose`
    the last of them is a pair of that and `Diagnostics`. Leaves of `batch` have
    a leading axis that is divided over the workers. `args` are equal on all
    workers. From `key`, a PRNG key for dropout and the like, every worker and
    micro-batch gets its own; pass a new one in every step. The loss is the mean
    over all workers and, like the parameters, equal everywhere.
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
  _checks.check_integer('accumulate_steps', accumulate_steps)
  if not isinstance(diagnose, bool):
    raise TypeError(
      'diagnose must be True or False; the compressor is found in tx by'
      f' itself, got diagnose={diagnose!r}.'
    )
  workers = _placement.workers_on(mesh, axis_name)
  grad_fn = _gradients.value_and_local_grad(loss_fn, axis_name, has_aux)
  grad_fn = _gradients.accumulate(grad_fn, accumulate_steps)
  tx = optax.with_extra_args_support(tx)

  def local_step(specs, params, opt_state, batch, args, key):
    if key is not None and axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    value, grads = grad_fn(params, batch, args, key)
    grads = _hold(grads, specs[: len(jax.tree.leaves(grads))])
    observer = _diagnostics.Observer()
    extra = {'observe': observer} if diagnose else {}

    def update(grads):
      observer.forget()  # It may be called again, see `_update`.
      return tx.update(grads, opt_state, params, **extra)

    updates, new_state = _update(update, grads, axis_name)
    _check_equal(new_state, opt_state, axis_name)
    new_params = optax.apply_updates(params, updates)
    if diagnose:
      value = value, observer.energies()
    leaves, treedef = jax.tree.flatten(_gradients.wide(value))
    means = _transport.Transport(axis_name).mean(leaves)
    value = jax.tree.unflatten(treedef, means)
    if diagnose:
      value, energies = value
      value = value, observer.diagnostics(energies)
    new_params, new_state = _hold((new_params, new_state), specs)
    return new_params, new_state, value

  def step(specs, params, opt_state, batch, *args, key=None):
    _check_wrappers(opt_state)
    _elastic.check_num_workers(opt_state, workers)
    for (path, _), spec in zip(
      jax.tree_util.tree_leaves_with_path(params), specs, strict=False
    ):
      _placement.check_spec(path, spec, axis_name)
    states = _placement.state_partition_specs(opt_state, axis_name)
    sharded = jax.shard_map(
      functools.partial(local_step, _without(specs, axis_name)),
      mesh=mesh,
      axis_names=_manual(mesh, axis_name),
      in_specs=(_P(), states, _P(axis_name), _P(), _P()),
      out_specs=(_P(), states, _P()),
    )
    return sharded(params, opt_state, batch, args, key)

  donated = (1, 2) if donate else ()
  jitted = jax.jit(step, donate_argnums=donated, static_argnums=0)
  return TrainStep(jitted, mesh, axis_name, accumulate_steps)


def _update(update: Any, grads: Any, axis_name: _axes.AxisName) -> Any:
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
    _checks.path_name(path)
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
  return update(
    treedef.unflatten(
      [
        jnp.zeros(x.shape, x.dtype) if is_varying else x
        for x, is_varying in zip(leaves, varying, strict=True)
      ]
    )
  )


def _depends(function: Callable[[Any], Any], argument: Any) -> list[bool]:
  """For each leaf of the result whether it may depend on the argument."""
  jaxpr = jax.make_jaxpr(function)(argument).jaxpr
  known = set(jaxpr.invars)
  uses = lambda x: not hasattr(x, 'val') and x in known  # Literals have values.
  for equation in jaxpr.eqns:
    if any(map(uses, equation.invars)):
      known.update(equation.outvars)
  return [uses(x) for x in jaxpr.outvars]


def _without(specs: Any, axis_name: _axes.AxisName) -> list[Any]:
  """Specs as they are on one worker, which are of the inner axes only."""
  workers = _axes.names(axis_name)
  inner = lambda entry: tuple(
    axis for axis in _axes.names(entry) if axis not in workers
  )
  return [spec and _P(*map(inner, spec)) for spec in specs]


def _manual(mesh: jax.sharding.Mesh, axis_name: Any) -> frozenset[str]:
  """The workers' axes; all of the mesh if the others have one device.

  XLA on CPUs cannot compile a mean of 16-bit numbers beside axes that are left
  to its partitioner.
  """
  workers = frozenset(_axes.names(axis_name))
  spread = any(mesh.shape[axis] > 1 for axis in {*mesh.shape} - workers)
  return workers if spread else frozenset(mesh.shape)


def _hold(tree: Any, specs: Any) -> Any:
  """The tree, spread as the specs of its leaves say; None leaves one alone."""
  leaves, treedef = jax.tree.flatten(tree)
  return jax.tree.unflatten(
    treedef,
    [
      x if spec is None else _spread.hold(x, *spec)
      for x, spec in zip(leaves, specs, strict=True)
    ],
  )


def _varies(x: jax.Array, axis_name: _axes.AxisName) -> bool:
  """Whether JAX's types say that it may differ between workers."""
  missing = _axes.missing_axes(x, axis_name)
  return len(missing) < len(_axes.names(axis_name))


def _check_equal(new: Any, old: Any, axis_name: _axes.AxisName) -> None:
  """Raises if state that should be equal on all workers is not."""
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(old), strict=False
  )
  for (path, x), before in pairs:
    if _varies(x, axis_name) and not _varies(before, axis_name):
      raise ValueError(
        f'The optimizer state at {_checks.path_name(path)!r} would differ'
        ' between workers, because it is made of gradients that are not yet'
        ' averaged: put gl.compress_gradients or gl.average_gradients first'
        ' in the chain.'
      )


def _check_wrappers(opt_state: Any) -> None:
  """Raises if the compressor is inside of what calls it conditionally."""
  remedies = {
    optax.MultiStepsState: 'optax.MultiSteps, which would communicate in'
    ' every micro-step: use make_train_step(accumulate_steps=...) instead',
    optax.ApplyIfFiniteState: 'optax.apply_if_finite: put that around what'
    ' follows the compressor in the chain. The compressor has to run on every'
    ' worker, and leaves its state alone if anything is not finite',
  }

  def one(x):
    for kind, remedy in remedies.items():
      if isinstance(x, kind) and _elastic.holds_state(x):
        raise ValueError(f'compress_gradients must not be inside of {remedy}.')

  kinds = tuple(remedies)
  jax.tree.map(one, opt_state, is_leaf=lambda x: isinstance(x, kinds))


def _check_shared(specs: list[Any], mesh: jax.sharding.Mesh) -> None:
  """Raises if the devices of a single worker would all do the same work."""
  if mesh.size > 1 and not any(spec and any(spec) for spec in specs):
    raise ValueError(
      f'axis_name=None means a single worker, but the mesh has {mesh.size}'
      ' devices and nothing is sharded over them, so all would do the same'
      ' work: name the axis of the workers, shard parameters or batch, or use'
      ' a mesh of one device.'
    )


def _check_batch(batch: Any, workers: int, accumulate_steps: int) -> None:
  """Raises unless every leaf divides over workers and micro-batches."""
  for path, x in jax.tree_util.tree_leaves_with_path(batch):
    name = _checks.path_name(path) or 'batch'
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
      raise ValueError(
        f'The batch must hold arrays of examples, got a PRNG key in {name!r}:'
        ' pass it as step(params, opt_state, batch, key=key), which gives'
        ' every worker its own.'
      )
    shape = jnp.shape(x)
    if not shape or shape[0] % (workers * accumulate_steps):
      raise ValueError(
        f'The leading axis of {name!r} in the batch must be a multiple of'
        f' {workers} workers x {accumulate_steps} micro-batches, got shape'
        f' {shape}.'
      )
