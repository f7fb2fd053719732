"""The training step around the transformation: local gradients and the mesh."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import optax

from greedylore_jax import _axes
from greedylore_jax import _checks
from greedylore_jax import _diagnostics
from greedylore_jax import _elastic
from greedylore_jax import _gradients
from greedylore_jax import _leaves
from greedylore_jax import _placement
from greedylore_jax import _policy
from greedylore_jax import _spread
from greedylore_jax import _transport

_P = jax.sharding.PartitionSpec


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """A jitted step that first puts parameters and batch onto the mesh.

  What lies there already stays as it lies, and so does what becomes of it:
  parameters that are spread over the devices of a worker stay so. Anything else
  is put there, parameters whole and the batch divided over the workers; fresh
  from their initialisation they would compile a program of their own. With
  several processes give global arrays: each has its part of a batch and joins
  them with `jax.make_array_from_process_local_data`.

  Attributes:
    jitted: the jitted function of what is on the mesh.
    mesh: the devices.
    axis_name: mesh axis (or tuple of axes) of the workers.

  Example:
    See `make_train_step`, which makes it.
  """

  jitted: Any
  mesh: jax.sharding.Mesh
  axis_name: _axes.AxisName

  def __call__(self, params: Any, opt_state: Any, batch: Any) -> Any:
    put = jax.device_put
    return self.jitted(*self._arguments(put, params, opt_state, batch))

  def lower(self, params: Any, opt_state: Any, batch: Any) -> Any:
    """As `jax.jit(...).lower`, for arrays or `jax.ShapeDtypeStruct`s."""
    describe = lambda x, sharding: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
    )
    return self.jitted.lower(
        *self._arguments(describe, params, opt_state, batch)
    )

  def _arguments(self, put, params, opt_state, batch):
    """Everything on the mesh, and how it lies there."""
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
    return params, opt_state, each(batch, _P(self.axis_name)), held


def make_train_step(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    axis_name: _axes.AxisName,
    has_aux: bool = False,
    accumulate_steps: int = 1,
    diagnose: _policy.Compressors | None = None,
) -> TrainStep:
  """A whole data-parallel training step, jitted, its arguments donated.

  Args:
    loss_fn: `loss_fn(params, batch)` -> scalar mean loss of that part of the
      batch, or (loss, aux) with `has_aux`.
    tx: a chain that begins with `compress_gradients` or `average_gradients`
      over the same axis, and needs gradients, state and parameters only (what
      wants the loss, such as `optax.contrib.reduce_on_plateau`, takes a step of
      your own).
    mesh: the devices, one worker for each index along `axis_name`. If it has
      other axes, XLA's partitioner may use these to spread the work of each
      worker, as parameters and batch are spread.
    axis_name: mesh axis (or tuple of axes) of the workers.
    has_aux: whether `loss_fn` also returns a tree of arrays; its mean over
      workers (and micro-batches) is returned beside the loss.
    accumulate_steps: micro-batches into which a worker cuts its part of the
      batch. Their gradients are averaged before anything is sent, so more of
      them save memory and cost no bytes.
    diagnose: the compressor in `tx`, to have the `Diagnostics` of each step;
      they travel with the loss, 12 bytes, and need error feedback.

  Returns:
    `step(params, opt_state, batch)` -> (params, opt_state, loss), or with
    `has_aux` (params, opt_state, (loss, aux)); with `diagnose` the last of them
    is a pair of that and `Diagnostics`. Leaves of `batch` have a leading
    axis that is divided over the workers; the loss is the mean over all of them
    and, like the parameters, equal everywhere. `step.lower(...)` works as for
    any jitted function. Results are placed on the mesh.

  Raises:
    ValueError: if the other axes of the mesh are not left to the partitioner
      (`AxisType.Auto`); when traced, if the batch does not divide over workers
      and micro-batches, the state is that of another number of workers,
      parameters lie spread over the workers, or `tx` does not average all of
      them.

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
  workers = _placement.num_workers(mesh, axis_name)
  grad_fn = _gradients.value_and_local_grad(loss_fn, axis_name, has_aux)
  grad_fn = _gradients.accumulate(grad_fn, accumulate_steps)

  def local_step(specs, params, opt_state, batch):
    value, grads = grad_fn(params, batch)
    grads = _hold(grads, specs[: len(jax.tree.leaves(grads))])
    updates, new_state = tx.update(grads, opt_state, params)
    _check_averaged(updates, axis_name)
    new_params = optax.apply_updates(params, updates)
    if diagnose is not None:
      value = value, _diagnostics.energies(grads, opt_state, new_state)
    leaves, treedef = jax.tree.flatten(_gradients.wide(value))
    means = _transport.Transport(axis_name).mean(leaves)
    value = jax.tree.unflatten(treedef, means)
    if diagnose is not None:
      value, energies = value
      value = value, _diagnostics.diagnostics(
          diagnose, energies, opt_state, new_state
      )
    new_params, new_state = _hold((new_params, new_state), specs)
    return new_params, new_state, value

  def step(params, opt_state, batch, specs):
    _check_batch(batch, workers, accumulate_steps)
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
        in_specs=(_P(), states, _P(axis_name)),
        out_specs=(_P(), states, _P()),
    )
    return sharded(params, opt_state, batch)

  jitted = jax.jit(step, donate_argnums=(0, 1), static_argnums=3)
  return TrainStep(jitted, mesh, axis_name)


def _without(specs: Any, axis_name: _axes.AxisName) -> list[Any]:
  """Specs as they are on one worker, which are of the inner axes only."""
  workers = _axes.names(axis_name)
  inner = lambda entry: tuple(
      axis for axis in _axes.names(entry) if axis not in workers
  )
  return [spec and _P(*map(inner, spec)) for spec in specs]


def _manual(mesh: jax.sharding.Mesh, axis_name: Any) -> frozenset[str]:
  """The workers' axes; all of the mesh if nothing lies spread over the others.

  XLA on CPUs cannot compile a mean of 16-bit numbers beside axes that are left
  to its partitioner.
  """
  workers = frozenset(_axes.names(axis_name))
  spread = any(mesh.shape[axis] > 1 for axis in {*mesh.shape} - workers)
  return workers if spread else frozenset(mesh.shape)


def _hold(tree: Any, specs: Any) -> Any:
  """The tree, spread as the specs of its leaves say; None leaves one alone."""
  leaves, treedef = jax.tree.flatten(tree)
  return jax.tree.unflatten(treedef, [
      x if spec is None else _spread.hold(x, *spec)
      for x, spec in zip(leaves, specs, strict=True)
  ])


def _check_averaged(updates: Any, axis_name: _axes.AxisName) -> None:
  """Raises if JAX's types say that an update is not the same on all workers."""
  for path, x in jax.tree_util.tree_leaves_with_path(updates):
    if len(_axes.missing_axes(x, axis_name)) < len(_axes.names(axis_name)):
      raise ValueError(
          f'The update of {_leaves.path_name(path)!r} differs between workers,'
          ' as nothing in tx averages it: begin the chain with'
          f' gl.compress_gradients(..., {axis_name!r}) or'
          f' gl.average_gradients({axis_name!r}), for all parameters.'
      )


def _check_batch(batch: Any, workers: int, accumulate_steps: int) -> None:
  """Raises unless every leaf divides over workers and micro-batches."""
  for path, x in jax.tree_util.tree_leaves_with_path(batch):
    name = _leaves.path_name(path) or 'batch'
    if not x.shape or x.shape[0] % (workers * accumulate_steps):
      raise ValueError(
          f'The leading axis of {name!r} in the batch must be a multiple of'
          f' {workers} workers x {accumulate_steps} micro-batches, got shape'
          f' {x.shape}.'
      )
