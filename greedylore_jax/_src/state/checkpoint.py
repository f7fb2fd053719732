"""The state in a checkpoint: errors for any number of workers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.state.compress_state import (
  CompressState,
  NonlinearCompressState,
  is_state,
)
from greedylore_jax._src.state.per_worker import PerWorker, is_per_worker
from greedylore_jax._src.types import Array, KeyPath, OptState, PyTree


def collapse(opt_state: OptState, *, exact: bool = True) -> OptState:
  """Returns the state for a checkpoint: the mean error of the workers.

  For linear methods all future updates depend on the errors only through their
  mean. So one copy, the size of the parameters, is enough to resume exactly, on
  any number of workers. The errors of methods that are not linear (`Sign`,
  `Quantize`, `TopK(indices='own')`, `ChunkTopK`, `ThresholdTopK`,
  `SplitColumns`, `TSR(average='bases')`, integer factors) stay as they are,
  all N.

  The result shares arrays with `opt_state`: save it before the next step that
  donates them.

  Args:
    opt_state: state with errors [N, *leaf.shape] of any N.
    exact: False also takes the mean of the errors of nonlinear methods: what
      was not sent is conserved, but the resumed run differs somewhat.

  Returns:
    The same state with errors [1, *leaf.shape], which is also what one worker
    would hold, equal on all workers; those of methods that are not linear, with
    `exact`, as they were.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> state = gl.greedylore(2, 'data').init({'w': jnp.ones((8, 16))})
    >>> gl.expand(gl.collapse(state), 4).error['w'].shape
    (4, 8, 16)

  References:
    The linearity follows from GreedyLore, arXiv 2507.08784, Algorithm 2.
  """

  def mean(error: Array) -> Array:
    if not jnp.issubdtype(error.dtype, jnp.floating):
      # Counts, which differ if a worker skipped steps that were not finite.
      return jnp.max(error, axis=0, keepdims=True)
    wide = jnp.promote_types(error.dtype, jnp.float32)
    return jnp.mean(error, 0, wide, keepdims=True).astype(error.dtype)

  return _map_errors(
    lambda state: None if exact and not _is_linear(state) else mean, opt_state
  )


def expand(
  opt_state: OptState, num_workers: int, *, exact: bool = True
) -> OptState:
  """Inverts `collapse`, for any number of workers.

  Args:
    opt_state: state with errors [1, *leaf.shape], or [N, *leaf.shape] of a
      method that is not linear.
    num_workers: N, how many workers resume.
    exact: False gives one error of a method that is not linear to all workers,
      too. That is right for a fresh state, whose errors are 0.

  Returns:
    The state with errors [N, *leaf.shape], one for every worker: the same mean
    for all, or each its own. `place_state` does this on a mesh.

  Raises:
    ValueError: if the state holds the errors of several workers, or of another
      number of them where every worker needs its own.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> saved = gl.greedylore(2, 'data').init({'w': jnp.ones((8, 16))})
    >>> gl.expand(saved, 3).error['w'].shape
    (3, 8, 16)
  """
  checks.check_integer('num_workers', num_workers)

  def repeat(error: Array) -> Array:
    if error.shape[0] != 1:
      raise ValueError(
        f'expand needs one (mean) error, got those of {error.shape[0]}'
        ' workers: collapse the state first.'
      )
    return jnp.broadcast_to(error, (num_workers, *error.shape[1:]))

  def own(error: Array) -> Array:
    if error.shape[0] != num_workers:
      if error.shape[0] == 1:
        raise ValueError(
          'This state holds one error, the mean of all workers or that of a'
          f' single one, but the method needs that of each of {num_workers}:'
          ' pass exact=False to gl.place_state (or to gl.expand) to give'
          ' every worker this one.'
        )
      raise ValueError(
        f'This state holds the errors of {error.shape[0]} workers. The method'
        f' is not linear in them, so {num_workers} workers cannot continue'
        f' exactly: resume with {error.shape[0]} workers, or pass exact=False'
        ' to gl.place_state (or to gl.collapse and gl.expand), which gives'
        ' every worker the mean error.'
      )
    return error

  def own_state(x: Array) -> Array:
    if x.shape[0] != num_workers:
      raise ValueError(
        f'This state holds the local optimizer states of {x.shape[0]} workers,'
        f' so {num_workers} workers cannot continue exactly: resume with'
        f' {x.shape[0]} workers, or pass exact=False to gl.place_state (or to'
        ' gl.collapse and gl.expand), which gives every worker their mean.'
      )
    return x

  def function_of(state: Any) -> Callable[[Array], Array]:
    if not exact or _is_linear(state):
      return repeat
    return own_state if is_per_worker(state) else own

  return _map_errors(function_of, opt_state)


def check_num_workers(opt_state: OptState, num_workers: int) -> None:
  """Raises unless the state holds one error for each of so many workers."""

  def check(error: Array) -> None:
    if error.shape[0] != num_workers:
      raise ValueError(
        'The state must hold an error for each worker of the mesh,'
        f' {num_workers} in all, got {error.shape[0]}: create it with'
        ' gl.init_state and the same mesh and axis_name, or place a saved one'
        ' with gl.place_state.'
      )

  _map_errors(lambda _: check, opt_state)


def _is_linear(state: CompressState | PerWorker) -> bool:
  """Whether one mean stands for all workers exactly."""
  return not isinstance(state, NonlinearCompressState | PerWorker)


def _map_errors(
  function_of: Callable[[Any], Callable[[Array], Any] | None],
  opt_state: OptState,
) -> OptState:
  """Maps what every worker has for itself, by what `function_of` its state is.

  These are the errors of a `CompressState` and the tree of a `PerWorker`. None
  leaves them alone.
  """

  def on_state(state: CompressState) -> CompressState:
    function = function_of(state)
    if function is None:
      return state
    return state._replace(error=jax.tree.map(function, state.error))

  def on_own(path: KeyPath, state: PerWorker) -> PerWorker:
    del path
    function = function_of(state)
    if function is None:
      return state
    return PerWorker(jax.tree.map(function, state.tree))

  return map_states(on_state, on_own, lambda path, leaf: leaf, opt_state)


def map_states(
  on_state: Callable[[CompressState], Any],
  on_own: Callable[[KeyPath, PerWorker], Any],
  on_leaf: Callable[[KeyPath, Any], Any],
  opt_state: OptState,
) -> OptState:
  """Maps compression states, (path, what is per worker), other (path, leaf)."""

  def one(path: KeyPath, x: Any) -> Any:
    if is_state(x):
      return on_state(x)
    if is_per_worker(x):
      return on_own(path, x)
    if _lost_its_type(x):
      raise TypeError(
        'The state must hold a CompressState, got a dict with its entries at'
        f' {checks.path_name(path)!r}, as from a checkpoint that was'
        ' restored without a template: restore it into gl.state_template(...)'
        ' or pass it through gl.place_state(..., tx=tx, params=params).'
      )
    return on_leaf(path, x)

  return jax.tree_util.tree_map_with_path(
    one,
    opt_state,
    is_leaf=lambda x: is_state(x) or is_per_worker(x) or _lost_its_type(x),
  )


def holds_state(tree: PyTree) -> bool:
  """Whether there is a `CompressState` anywhere in the tree."""
  return any(map(is_state, jax.tree.leaves(tree, is_leaf=is_state)))


def _lost_its_type(x: Any) -> bool:
  """Whether this was a `CompressState`."""
  return isinstance(x, dict) and x.keys() >= set(CompressState._fields)
