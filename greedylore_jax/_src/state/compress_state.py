"""The state of `compress_gradients`, and whether a given one fits it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.engine.leaf import CompressedLeaf, Leaf
from greedylore_jax._src.types import Array, Params, PyTree, Updates


class CompressState(NamedTuple):
  """State of `compress_gradients`.

  Attributes:
    count: int32 scalar, steps taken; equal on all workers.
    error: the parameters' tree; a compressed leaf holds this worker's own
      unsent remainder, [1, *leaf.shape] on a worker and [N, *leaf.shape] on
      the mesh; other leaves hold `optax.MaskedNode()`.
    compressor_state: the parameters' tree; a compressed leaf holds what its
      method keeps, for `GreedyLore` the basis [k, a, a]; equal on all workers.
  """

  count: Array  # type: ignore[assignment]
  error: PyTree
  compressor_state: PyTree


class NonlinearCompressState(CompressState):
  """A `CompressState` of a method that is not linear.

  Its updates are not a function of the mean error, so a checkpoint keeps the
  errors of all workers, for the same number of them.
  """

  __slots__ = ()


def is_state(x: Any) -> bool:
  """Whether this is the state of `compress_gradients`."""
  return isinstance(x, CompressState)


def fresh(leaves: Sequence[Leaf], params: Params) -> CompressState:
  """The state of one worker before the first step."""
  treedef: Any = jax.tree.structure(params)
  pairs = [leaf.init() for leaf in leaves]
  return kind_of(leaves)(
    jnp.zeros([], jnp.int32),
    treedef.unflatten([error for error, _ in pairs]),
    treedef.unflatten([state for _, state in pairs]),
  )


def kind_of(leaves: Sequence[Leaf]) -> type[CompressState]:
  """The class of state, which says whether the method in use is linear."""
  linear = all(leaf.is_linear for leaf in leaves)
  return CompressState if linear else NonlinearCompressState


def check(leaves: Sequence[Leaf], state: Any, updates: Updates) -> None:
  """Raises unless the state is what these leaves would have created.

  Args:
    leaves: of the configuration in use.
    state: of one worker.
    updates: the gradients.
  """
  if not isinstance(state, CompressState):
    raise TypeError(
      'The state of compress_gradients must be a CompressState, got a'
      f' {type(state).__name__}. If it comes from a checkpoint, pass it'
      ' through gl.place_state(..., tx=tx, params=params).'
    )
  kind = kind_of(leaves)
  if type(state) is not kind:
    raise ValueError(
      f'The configuration in use needs a {kind.__name__}, got a'
      f' {type(state).__name__}: the state was created with another'
      f' compressor or factor_dtype. {REMEDY}'
    )
  treedef: Any = jax.tree.structure(updates)
  got = zip(
    treedef.flatten_up_to(state.error),
    treedef.flatten_up_to(state.compressor_state),
    strict=True,
  )
  for leaf, held in zip(leaves, got, strict=True):
    wanted = leaf.state_shapes()
    if problem := _misfit(leaf, wanted, held):
      raise ValueError(f'{problem} {REMEDY}')


# What to do about a state that does not fit.
REMEDY = (
  'Use the configuration of the run that saved it, or pass the state through'
  ' gl.place_state(..., tx=tx, params=params), which adapts what can be'
  ' adapted exactly; with exact=False it keeps whatever fits.'
)
SEND_FIRST = (
  'To send it first, take one step of the old configuration with a start_step'
  ' above the step count, which is dense.'
)


def _misfit(leaf: Leaf, wanted: Any, got: Any) -> str | None:
  """What is wrong with the (error, compressor state) of a leaf."""
  (error, kept), (got_error, got_kept) = wanted, got
  has_error = bool(jax.tree.leaves(got_error))
  if has_error and not jax.tree.leaves(error):
    return (
      f'The state holds an unsent error for {leaf.path!r}, which the'
      f' configuration in use would never send. {SEND_FIRST}'
    )
  if not has_error and jax.tree.leaves(error):
    return (
      f'The state holds no error for {leaf.path!r}, which the configuration'
      ' in use compresses with error feedback.'
    )
  if has_error and got_error.dtype != error.dtype:
    return (
      f'The error of {leaf.path!r} must be {error.dtype}, got'
      f' {got_error.dtype}: error_dtype has changed.'
    )
  if described(kept) != described(got_kept):
    method: Any = 'a dense leaf'
    if isinstance(leaf, CompressedLeaf):
      method = leaf.compressor
    return (
      f'The compressor state of {leaf.path!r} must be {described(kept)} for'
      f' {method}, got {described(got_kept)}.'
    )
  return None


def described(tree: Any) -> str:
  """The arrays in a tree by dtype and shape, 'float32[1,16,4]'."""
  arrays = [
    f'{jnp.result_type(x)}[{",".join(map(str, jnp.shape(x)))}]'
    for x in jax.tree.leaves(tree)
  ]
  return ' and '.join(arrays) or 'nothing'
