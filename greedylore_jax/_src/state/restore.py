"""From a saved state to the one that a transformation continues from."""

from collections.abc import Mapping
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks
from greedylore_jax._src.state import compress_state
from greedylore_jax._src.state.compress_state import (
  CompressState,
  NonlinearCompressState,
)
from greedylore_jax._src.state.per_worker import PerWorker, is_per_worker
from greedylore_jax._src.types import (
  Function,
  KeyPath,
  OptState,
  Params,
  PyTree,
)

_REMEDY = (
  'Use the configuration of the run that saved it, or pass exact=False to'
  ' keep whatever fits.'
)


def adapt(
  saved: OptState,
  tx: optax.GradientTransformation,
  params: Params,
  *,
  num_workers: int,
  exact: bool,
) -> OptState:
  """A saved state in the structure of `tx.init(params)`.

  Entries are found by name, so the dicts and lists of a checkpoint that was
  restored without a template get their types back.

  Args:
    saved: the state, or its entries as dicts and lists.
    tx: the transformation that continues from it.
    params: the parameters, or their shapes.
    num_workers: N, how many workers continue.
    exact: False takes what does not fit from `tx.init(params)`, and drops
      errors for which `tx` has no place.

  Returns:
    The state; its errors have as many workers as they had, or N.

  Raises:
    ValueError: with `exact`, if an entry is missing, left over or of another
      shape or dtype.
  """
  fresh = jax.eval_shape(tx.init, params) if exact else tx.init(params)

  def entry(path: KeyPath, wanted: Any) -> Any:
    if compress_state.is_state(wanted):
      return _adapt_state(
        path, wanted, saved, num_workers=num_workers, exact=exact
      )
    if is_per_worker(wanted):
      return _adapt_own(path, wanted, saved, exact)
    return _take(path, wanted, saved, exact)

  adapted = jax.tree_util.tree_map_with_path(
    entry,
    fresh,
    is_leaf=lambda x: compress_state.is_state(x) or is_per_worker(x),
  )
  given, kept = (len(jax.tree.leaves(x)) for x in (saved, adapted))
  if exact and given != kept:
    names = ', '.join(_only_in(saved, adapted)[:3])
    raise ValueError(
      f'The saved state must have {kept} arrays, as tx.init(params) has, got'
      f' {given}, among them {names}. {_REMEDY}'
    )
  return adapted


def check_fits(
  opt_state: OptState, tx: optax.GradientTransformation, params: Params
) -> None:
  """Raises unless the state has the arrays that `tx` keeps, by their names.

  Most optimizers do not look, and fail later or continue with the state of
  another one. Compressors look themselves, and say more.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # `init_state` has warned already.
    fresh = jax.eval_shape(tx.init, params)
  outside: Function = lambda tree: jax.tree.map(
    lambda x: 0, tree, is_leaf=compress_state.is_state
  )
  wanted, given = outside(fresh), outside(opt_state)
  if missing := _only_in(wanted, given):
    got = f'no {", ".join(missing[:3])}'
  elif extra := _only_in(given, wanted):
    got = f'{", ".join(extra[:3])}, which tx does not keep'
  else:
    return
  raise ValueError(
    f'The state must be that of tx, got {got}: it is of another configuration.'
    f' {compress_state.REMEDY}'
  )


def _only_in(one: OptState, other: OptState) -> list[str]:
  """The places of arrays of the one state that the other does not have."""
  of: Function = lambda tree: dict.fromkeys(
    _name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  )
  known = of(other)
  return [name for name in of(one) if name not in known]


def _adapt_state(
  path: KeyPath,
  wanted: CompressState,
  saved: OptState,
  *,
  num_workers: int,
  exact: bool,
) -> CompressState:
  """The compression state in this place."""
  kind = type(_find(saved, path))
  of_linear = kind is CompressState
  repeat = of_linear and isinstance(wanted, NonlinearCompressState)
  nothing: Function = lambda x: isinstance(x, optax.MaskedNode)

  def error(below: KeyPath, fresh: Any) -> Any:
    place = (*path, jax.tree_util.GetAttrKey('error'), *below)
    found = _find(saved, place)
    unsent = jax.tree.leaves(found)
    if nothing(fresh):
      if unsent and exact:
        raise ValueError(
          f'The saved state holds an unsent error at {_name(place)}, which tx'
          f' would never send. {compress_state.SEND_FIRST} {_REMEDY}'
        )
      return fresh
    if not unsent or found.shape[1:] != fresh.shape[1:]:
      return _take(place, fresh, saved, exact)
    if found.dtype != fresh.dtype:
      if exact:
        return _take(place, fresh, saved, exact)  # Raises.
      found = found.astype(fresh.dtype)
    if repeat:  # The mean is all that is known of a linear method's errors.
      wide = jnp.promote_types(found.dtype, jnp.float32)
      mean = jnp.mean(found, 0, keepdims=True, dtype=wide)
      found = jnp.broadcast_to(
        mean.astype(found.dtype), (num_workers, *found.shape[1:])
      )
    return found

  def compressor_state(below: KeyPath, fresh: Any) -> Any:
    place = (*path, jax.tree_util.GetAttrKey('compressor_state'), *below)
    return _take(place, fresh, saved, exact)

  count = (*path, jax.tree_util.GetAttrKey('count'))
  return wanted._replace(
    count=_take(count, wanted.count, saved, exact),
    error=jax.tree_util.tree_map_with_path(
      error, wanted.error, is_leaf=nothing
    ),
    compressor_state=jax.tree_util.tree_map_with_path(
      compressor_state, wanted.compressor_state
    ),
  )


def _adapt_own(
  path: KeyPath, wanted: PerWorker, saved: OptState, exact: bool
) -> PerWorker:
  """What every worker has for itself in this place, of any number of them."""

  def one(below: KeyPath, fresh: Any) -> Any:
    place = (*path, jax.tree_util.GetAttrKey('tree'), *below)
    found = _find(saved, place)
    fits = jax.tree.leaves(found) and found.shape[1:] == fresh.shape[1:]
    if fits and found.dtype == fresh.dtype:
      return found
    return _take(place, fresh, saved, exact)

  return PerWorker(jax.tree_util.tree_map_with_path(one, wanted.tree))


def _take(place: KeyPath, wanted: Any, saved: OptState, exact: bool) -> Any:
  """The saved array in this place; what is wanted if it does not fit."""
  found = _find(saved, place)
  if compress_state.described(found) == compress_state.described(wanted):
    return found
  if exact:
    raise ValueError(
      f'The saved state must hold {compress_state.described(wanted)} at'
      f' {_name(place)}, got {compress_state.described(found)}. {_REMEDY}'
    )
  return wanted


def _find(tree: PyTree, path: KeyPath) -> Any:
  """What a tree, or dicts and lists of its entries, holds at a path."""
  for key in path:
    (name,) = (
      getattr(key, x) for x in ('name', 'key', 'idx') if hasattr(key, x)
    )
    tree = _entry(tree, name)
  return tree


def _entry(node: Any, name: Any) -> Any:
  """One entry by its name or number; None if there is none."""
  if isinstance(node, Mapping):
    return node.get(name, node.get(str(name)))
  if isinstance(node, list | tuple) and not hasattr(node, '_fields'):
    return node[name] if isinstance(name, int) and name < len(node) else None
  if isinstance(node, tuple) and isinstance(name, int):
    return node[name] if name < len(node) else None
  return getattr(node, name, None) if isinstance(name, str) else None


def _name(place: KeyPath) -> str:
  return repr(checks.path_name(place))
