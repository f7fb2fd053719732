"""Where optimizer state lives on the mesh."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.state import checkpoint, restore
from greedylore_jax._src.state.per_worker import PerWorker
from greedylore_jax._src.types import (
  AxisName,
  Function,
  KeyPath,
  OptState,
  Params,
  PyTree,
  Shape,
  Spec,
)
from greedylore_jax._src.wire import worker_axes

_P: Any = jax.sharding.PartitionSpec


def state_partition_specs(
  opt_state: OptState, axis_name: AxisName, params: Params = None
) -> PyTree:
  """The PartitionSpec of every leaf of an optimizer state.

  Args:
    opt_state: state (or its `jax.eval_shape`) of any chain of optax
      transformations that contains a `compress_gradients`.
    axis_name: mesh axis (or tuple of axes) of the workers.
    params: parameters (or shapes with shardings) that are sharded over other
      axes of the mesh. None leaves these out, as `jax.shard_map` over the axes
      of the workers expects.

  Returns:
    A tree like `opt_state`: `P(axis_name, ...)` for errors, of which every
    worker has its own, and no `axis_name` for all else, which is equal on all
    workers. `...` is the sharding of the parameter, and so is that of anything
    else with a parameter's path and shape. Compressor states, [k, rows, ...],
    have their rows sharded over all axes that are not the workers'.

  Raises:
    ValueError: if parameters are sharded over the workers.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> state = gl.greedylore(2, 'data').init({'w': jnp.ones((8, 16))})
    >>> gl.state_partition_specs(state, 'data').error
    {'w': P('data',)}
  """
  sharding = _ParameterSharding(params, axis_name)
  return checkpoint.map_states(
    lambda s: s._replace(
      count=_P(),
      error=jax.tree_util.tree_map_with_path(
        lambda path, x: _P(axis_name, *sharding.like(path, x.shape[1:])),
        s.error,
      ),
      compressor_state=jax.tree_util.tree_map_with_path(
        sharding.compressor_state, s.compressor_state
      ),
    ),
    lambda path, own: PerWorker(
      jax.tree_util.tree_map_with_path(
        lambda below, x: _P(
          axis_name, *sharding.like((*path, *below), x.shape[1:])
        ),
        own.tree,
      )
    ),
    lambda path, x: sharding.like(path, jnp.shape(x)),
    opt_state,
  )


def check_spec(path: KeyPath, spec: Spec, axis_name: AxisName) -> None:
  """Raises if a parameter is sharded over the workers, who all need it."""
  axes = {axis for entry in spec for axis in worker_axes.names(entry)}
  if axes.intersection(worker_axes.names(axis_name)):
    raise ValueError(
      f'{checks.path_name(path)!r} is sharded as {spec} over the axis of the'
      f' workers, axis_name={axis_name!r}, but must be equal on all of them:'
      ' shard it over another axis of the mesh.'
    )


class _ParameterSharding:
  """How parameters are sharded over the devices of a worker."""

  def __init__(self, params: Params, axis_name: AxisName):
    self._known = {
      path: (x.shape, x.sharding)
      for path, x in jax.tree_util.tree_leaves_with_path(params)
      if isinstance(getattr(x, 'sharding', None), jax.sharding.NamedSharding)
    }
    for path, (_, sharding) in self._known.items():
      check_spec(path, sharding.spec, axis_name)
    specs = [_canonical(sharding) for _, sharding in self._known.values()]
    self._used = set(jax.tree.leaves([tuple(spec) for spec in specs]))
    self._workers = worker_axes.names(axis_name)

  def like(self, path: KeyPath, shape: Shape) -> Spec:
    """The spec of an array with the shape and the path of a parameter."""
    for start in range(len(path) + 1):
      known, sharding = self._known.get(path[start:], (None, None))
      if known == shape:
        return _canonical(sharding)
    return _P()

  def compressor_state(self, path: KeyPath, x: Any) -> Spec:
    """The spec of an array in the compressor state of a parameter."""
    for end in range(len(path) + 1):
      _, sharding = self._known.get(path[:end], (None, None))
      if sharding is None:
        continue
      sizes = sharding.mesh.shape
      # The workers' axes are not known for the state of a single one.
      inner = tuple(
        axis
        for axis, size in sizes.items()
        if size > 1
        and axis not in self._workers
        and (self._workers or axis in self._used)
      )
      count = math.prod(sizes[axis] for axis in inner)
      divides = inner and len(x.shape) > 1 and x.shape[1] % count == 0
      return _P(None, inner) if divides else _P()
    return _P()


def init_state(
  tx: optax.GradientTransformation,
  params: Params,
  mesh: jax.sharding.Mesh,
  *,
  axis_name: AxisName,
) -> OptState:
  """The optimizer state, created where it belongs on the mesh.

  Args:
    tx: any chain that contains a `compress_gradients`.
    params: the parameters (equal on all workers). They may be sharded over
      other axes of the mesh. For `jax.ShapeDtypeStruct`s the state consists
      of such, too: enough to compile a step and see how much memory it needs.
    mesh: the devices, one worker for each index along `axis_name`.
    axis_name: mesh axis (or tuple of axes) of the workers.

  Returns:
    The state of `tx.init`, with errors [N, *leaf.shape] sharded over
    `axis_name` and everything else equal on all workers, both sharded within a
    worker as the parameters are (see `state_partition_specs`).

  Raises:
    ValueError: if the mesh has no such axis, another axis of it is not left to
      the partitioner, or parameters are sharded over the workers.
    TypeError: for params=None.

  Example:
    >>> import greedylore_jax as gl, jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh(
    ...     (1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> tx = gl.greedylore(2, 'data')
    >>> params = {'w': jnp.ones((8, 16))}
    >>> state = gl.init_state(tx, params, mesh, axis_name='data')
    >>> state.error['w'].sharding.spec
    P('data',)
  """
  checks.check_params(params)
  workers = workers_on(mesh, axis_name)
  init = lambda params: checkpoint.expand(tx.init(params), workers, exact=False)
  return _on_mesh(init, params, params, mesh, axis_name)


def place_state(
  opt_state: OptState,
  mesh: jax.sharding.Mesh,
  *,
  axis_name: AxisName,
  tx: optax.GradientTransformation | None = None,
  params: Params = None,
  exact: bool = True,
) -> OptState:
  """A saved state on a mesh with any number of workers, ready to resume.

  Args:
    opt_state: what `collapse` returned, on any devices or as NumPy arrays; with
      `tx` also the dicts and lists of a checkpoint that was restored without a
      template.
    mesh: the devices, one worker for each index along `axis_name`.
    axis_name: mesh axis (or tuple of axes) of the workers.
    tx: the transformation that will continue. The state is then checked against
      it and converted if it can continue exactly, for instance from float32 to
      int8 factors. None takes the state as it is.
    params: the parameters or their shapes; needed with `tx`, and if parameters
      are sharded over other axes of the mesh, as the state then is.
    exact: False also accepts a state that cannot continue exactly: every worker
      gets the mean error of a method that is not linear, and entries that do
      not fit `tx` start again.

  Returns:
    The state as `init_state` places it. For linear methods no device holds the
    errors of all workers, not even in between.

  Raises:
    ValueError: if the mesh has no such axis; with `exact`, if the state does
      not fit `tx` or needs another number of workers.
    TypeError: for None; without `tx`, for a state that has lost its types.

  Example:
    >>> import greedylore_jax as gl, jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh(
    ...     (1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> tx = gl.greedylore(2, 'data')
    >>> params = {'w': jnp.ones((8, 16))}
    >>> state = gl.init_state(tx, params, mesh, axis_name='data')
    >>> saved = gl.collapse(state)
    >>> state = gl.place_state(
    ...     saved, mesh, axis_name='data', tx=tx, params=params)
    >>> state.error['w'].sharding.spec
    P('data',)
  """
  if opt_state is None:
    raise TypeError('place_state needs a state from collapse, got None.')
  workers = workers_on(mesh, axis_name)
  if tx is not None:
    if params is None:
      raise TypeError('place_state needs params= together with tx=, got None.')
    opt_state = restore.adapt(
      opt_state, tx, params, num_workers=workers, exact=exact
    )

  def resume(state: OptState) -> OptState:
    mean = checkpoint.collapse(state, exact=exact)
    return checkpoint.expand(mean, workers, exact=exact)

  given = _on_devices(opt_state, mesh, axis_name, params)
  return _on_mesh(resume, given, params, mesh, axis_name)


def state_template(
  tx: optax.GradientTransformation,
  params: Params,
  mesh: jax.sharding.Mesh,
  *,
  axis_name: AxisName,
  num_workers: int | None = None,
) -> OptState:
  """What a checkpoint holds: the shapes and shardings of `collapse`'s result.

  A checkpoint library restores into it, in one process or in many, and
  `place_state` continues from what it restored.

  Args:
    tx: the transformation of the run that saved.
    params: the parameters, or their shapes.
    mesh: the devices that restore.
    axis_name: mesh axis (or tuple of axes) of the workers.
    num_workers: how many workers the run that saved had, which matters only for
      methods that are not linear. None means as many as the mesh has.

  Returns:
    A tree of `jax.ShapeDtypeStruct`s with their shardings: errors [1, *shape],
    or [num_workers, *shape] for methods that are not linear.

  Example:
    >>> import greedylore_jax as gl, jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh(
    ...     (1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    >>> params = {'w': jnp.ones((8, 16))}
    >>> gl.state_template(
    ...     gl.greedylore(2, 'data'), params, mesh, axis_name='data'
    ... ).error['w'].shape
    (1, 8, 16)
  """
  saved = workers_on(mesh, axis_name) if num_workers is None else num_workers
  checks.check_integer('num_workers', saved)
  shapes = jax.eval_shape(
    lambda params: checkpoint.collapse(
      checkpoint.expand(tx.init(params), saved, exact=False)
    ),
    params,
  )
  return _abstract(shapes, _shardings(shapes, params, mesh, axis_name))


def _on_devices(
  opt_state: OptState,
  mesh: jax.sharding.Mesh,
  axis_name: AxisName,
  params: Params,
) -> OptState:
  """The state with all arrays that are on other devices moved to the mesh."""
  devices = set(mesh.devices.flat)

  def move(x: Any, sharding: Any) -> Any:
    if not isinstance(x, jax.Array) or x.sharding.device_set == devices:
      return x
    return jax.device_put(x, sharding)

  shardings = _shardings(opt_state, params, mesh, axis_name)
  return jax.tree.map(move, opt_state, shardings)


def _shardings(
  opt_state: OptState,
  params: Params,
  mesh: jax.sharding.Mesh,
  axis_name: AxisName,
) -> PyTree:
  """Where the arrays of a state are on the mesh, saved ones included."""
  specs = state_partition_specs(opt_state, axis_name, params)
  workers = workers_on(mesh, axis_name)

  def one(x: Any, spec: Spec) -> jax.sharding.NamedSharding:
    axes = worker_axes.names(axis_name)
    of_workers = spec and worker_axes.names(spec[0]) == axes
    if of_workers and jnp.shape(x)[0] % workers:
      spec = _P(None, *spec[1:])  # One mean error for all.
    return jax.sharding.NamedSharding(mesh, spec)

  return jax.tree.map(one, opt_state, specs)


def _on_mesh(
  function: Function,
  given: PyTree,
  params: Params,
  mesh: jax.sharding.Mesh,
  axis_name: AxisName,
) -> OptState:
  """The state that a function makes of what is given, made where it belongs."""
  shapes = jax.eval_shape(function, given)
  shardings = _shardings(shapes, params, mesh, axis_name)
  if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(given)):
    return _abstract(shapes, shardings)
  return jax.jit(function, out_shardings=shardings)(given)


def _abstract(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Shapes with the shardings of their arrays."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


@functools.cache
def on_mesh(
  mesh: jax.sharding.Mesh, sharding: Any
) -> jax.sharding.NamedSharding | None:
  """A sharding on the mesh, in its canonical form; None for any other."""
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return None
  if sharding.mesh != mesh:
    return None
  return jax.sharding.NamedSharding(mesh, _canonical(sharding))


def _canonical(sharding: jax.sharding.NamedSharding) -> Spec:
  """Its spec without axes of one device and without empty last entries."""
  sizes = sharding.mesh.shape
  entries = [
    tuple(axis for axis in worker_axes.names(entry) if sizes[axis] > 1)
    for entry in sharding.spec
  ]
  used = [i for i, entry in enumerate(entries) if entry]
  return _P(*entries[: used[-1] + 1 if used else 0])


def workers_on(mesh: jax.sharding.Mesh, axis_name: AxisName) -> int:
  """How many workers a mesh has along `axis_name`."""
  if not isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh):
    raise TypeError(
      f'mesh must be a jax.sharding.Mesh, got {mesh!r}: make one with'
      ' jax.make_mesh, also for a single device.'
    )
  axes = worker_axes.names(axis_name)
  for axis in axes:
    if axis not in mesh.shape:
      raise ValueError(
        f'The mesh has no axis {axis!r}, only {tuple(mesh.axis_names)}.'
      )
  for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
    if kind == jax.sharding.AxisType.Explicit and axis not in axes:
      raise ValueError(
        f'The axis {axis!r} of the mesh is not one of the workers, so it must'
        ' be left to the partitioner: make the mesh with axis_types='
        f'(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}.'
      )
  return math.prod(mesh.shape[axis] for axis in axes)
