"""Where optimizer state lives: on the mesh, and in a checkpoint."""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._axes import AxisName
from greedylore_jax._compress import CompressState
from greedylore_jax._compress import NonlinearCompressState

_P = jax.sharding.PartitionSpec


def state_partition_specs(opt_state: Any, axis_name: AxisName) -> Any:
  """The PartitionSpec of every leaf of an optimizer state, for `jax.shard_map`.

  Args:
    opt_state: state (or its `jax.eval_shape`) of any chain of optax
      transformations that contains a `compress_gradients`.
    axis_name: mesh axis (or tuple of axes) of the workers.

  Returns:
    A tree like `opt_state`: `P(axis_name)` for errors, of which every worker
    has its own, and `P()` for all else, which is equal on all workers.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> state = gl.greedylore(2, 'data').init({'w': jnp.ones((8, 16))})
    >>> gl.state_partition_specs(state, 'data').error
    {'w': P('data',)}
  """
  shared = lambda tree: jax.tree.map(lambda _: _P(), tree)
  own = lambda tree: jax.tree.map(lambda _: _P(axis_name), tree)
  return _map_states(
      lambda s: s._replace(
          count=shared(s.count), error=own(s.error), memory=shared(s.memory)
      ),
      lambda _: _P(),
      opt_state,
  )


def init_state(
    tx: optax.GradientTransformation,
    params: Any,
    mesh: jax.sharding.Mesh,
    *,
    axis_name: AxisName,
) -> Any:
  """The optimizer state, created where it belongs on the mesh.

  Args:
    tx: any chain that contains a `compress_gradients`.
    params: the parameters (the same on all workers).
    mesh: the devices, one worker for each index along `axis_name`.
    axis_name: mesh axis (or tuple of axes) of the workers.

  Returns:
    The state of `tx.init`, with errors [N, *leaf.shape] sharded over
    `axis_name` and everything else replicated.

  Raises:
    ValueError: if the mesh has no such axis.

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
  workers = num_workers(mesh, axis_name)
  init = lambda params: expand(tx.init(params), workers, exact=False)
  specs = state_partition_specs(jax.eval_shape(init, params), axis_name)
  place = lambda spec: jax.sharding.NamedSharding(mesh, spec)
  return jax.jit(init, out_shardings=jax.tree.map(place, specs))(params)


def num_workers(mesh: jax.sharding.Mesh, axis_name: AxisName) -> int:
  """How many workers a mesh has along `axis_name`."""
  axes = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
  for axis in axes:
    if axis not in mesh.shape:
      raise ValueError(
          f'The mesh has no axis {axis!r}, only {tuple(mesh.axis_names)}.'
      )
  return math.prod(mesh.shape[axis] for axis in axes)


def collapse(opt_state: Any, *, exact: bool = True) -> Any:
  """The state as it goes into a checkpoint: the mean error of the workers.

  For linear methods all future updates depend on the errors only through their
  mean. So one copy, the size of the parameters, is enough to go on exactly, at
  any number of workers. The errors of methods that are not linear (`Sign`,
  `Quantize`, `TopK(indices='own')`, integer factors) stay as they are, all N.

  Args:
    opt_state: state with errors [N, *leaf.shape] of any N.
    exact: False takes the mean of errors that are not linear, too: what was not
      sent is conserved, but the run goes on somewhat differently.

  Returns:
    The same state with errors [1, *leaf.shape], which is also what one worker
    would hold. Equal on all workers.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> state = gl.greedylore(2, 'data').init({'w': jnp.ones((8, 16))})
    >>> gl.expand(gl.collapse(state), 4).error['w'].shape
    (4, 8, 16)

  References:
    The linearity follows from GreedyLore, arXiv 2507.08784, Algorithm 2.
  """

  def mean(error):
    wide = jnp.promote_types(error.dtype, jnp.float32)
    return jnp.mean(error, 0, wide, keepdims=True).astype(error.dtype)

  return _map_errors(
      lambda state: None if exact and not _is_linear(state) else mean, opt_state
  )


def expand(opt_state: Any, num_workers: int, *, exact: bool = True) -> Any:
  """The inverse of `collapse`, for any number of workers.

  Args:
    opt_state: state with errors [1, *leaf.shape], or [N, *leaf.shape] of a
      method that is not linear.
    num_workers: N, how many workers go on with it.
    exact: False gives one error of a method that is not linear to all workers,
      too. That is right for a fresh state, whose errors are 0.

  Returns:
    The state with errors [N, *leaf.shape], the same one for every worker. Place
    it with `state_partition_specs`.

  Raises:
    ValueError: if the state holds the errors of several workers, or of another
      number of them where every worker needs its own.
  """
  if num_workers < 1:
    raise ValueError(f'num_workers must be at least 1, got {num_workers!r}.')

  def repeat(error):
    if error.shape[0] != 1:
      raise ValueError(
          f'expand needs one (mean) error, got those of {error.shape[0]}'
          ' workers: collapse the state first.'
      )
    return jnp.broadcast_to(error, (num_workers, *error.shape[1:]))

  def own(error):
    if error.shape[0] != num_workers:
      raise ValueError(
          f'This is the state of {error.shape[0]} workers whose errors cannot'
          f' be handed to {num_workers} exactly, as the method is not linear in'
          f' them. Go on with {error.shape[0]}; or accept another trajectory'
          ' with gl.expand(gl.collapse(state, exact=False), num_workers,'
          ' exact=False), which is also the way to expand a fresh state.'
      )
    return error

  return _map_errors(
      lambda state: own if exact and not _is_linear(state) else repeat,
      opt_state,
  )


def check_num_workers(opt_state: Any, num_workers: int) -> None:
  """Raises unless the state holds one error for each of so many workers."""

  def check(error):
    if error.shape[0] != num_workers:
      raise ValueError(
          f'The state holds the errors of {error.shape[0]} workers, the mesh'
          f' has {num_workers}: create it with gl.init_state, or pass a saved'
          ' one through gl.collapse and gl.expand.'
      )

  _map_errors(lambda _: check, opt_state)


def _is_linear(state: CompressState) -> bool:
  return not isinstance(state, NonlinearCompressState)


def _map_errors(
    function_of: Callable[[CompressState], Callable[[jax.Array], Any] | None],
    opt_state: Any,
) -> Any:
  """Maps the errors, wherever they are, by what `function_of` their state is.

  None leaves them alone.
  """

  def on_state(state):
    function = function_of(state)
    if function is None:
      return state
    return state._replace(error=jax.tree.map(function, state.error))

  return _map_states(on_state, lambda leaf: leaf, opt_state)


def _map_states(
    on_state: Callable[[CompressState], Any],
    on_leaf: Callable[[Any], Any],
    opt_state: Any,
) -> Any:
  """Maps compression states as a whole and every other leaf by itself."""
  is_state = lambda x: isinstance(x, CompressState)
  return jax.tree.map(
      lambda x: on_state(x) if is_state(x) else on_leaf(x),
      opt_state,
      is_leaf=is_state,
  )
