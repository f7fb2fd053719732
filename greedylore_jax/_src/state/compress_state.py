"""The state of `compress_gradients`, and whether a given one fits it."""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src.engine import leaf as _leaves
from greedylore_jax._src.engine import policy as _policy


class CompressState(NamedTuple):
  """State of `compress_gradients`.

  Attributes:
    count: int32 scalar, steps taken; equal on all workers.
    error: the parameters' tree; a compressed leaf holds this worker's own
      unsent remainder, [1, *leaf.shape] on a worker and [N, *leaf.shape] on
      the mesh; other leaves hold `optax.MaskedNode()`. Under EF21 it is -D_i,
      minus what all know of this worker.
    memory: the parameters' tree; a compressed leaf holds the compressor state,
      for `GreedyLore` the basis [k, a, a], and under EF21 a pair of that and of
      mean_i D_i; equal on all workers.
  """

  count: jax.Array  # type: ignore[assignment]
  error: Any
  memory: Any


class NonlinearCompressState(CompressState):
  """A `CompressState` of which every worker's own error matters.

  The state of methods whose updates are not a function of the mean error. A
  checkpoint of it keeps the errors of all workers, for the same number of them.
  """

  __slots__ = ()


def fresh(policy: _policy.Policy, params: Any) -> CompressState:
  """The state of one worker before the first step."""
  leaves = policy.leaves(params)
  policy.check_compresses(leaves)
  treedef: Any = jax.tree.structure(params)
  pairs = [policy.init(leaf) for leaf in leaves]
  return kind_of(policy, leaves)(
    jnp.zeros([], jnp.int32),
    treedef.unflatten([error for error, _ in pairs]),
    treedef.unflatten([memory for _, memory in pairs]),
  )


def kind_of(
  policy: _policy.Policy, leaves: list[_leaves.Leaf]
) -> type[CompressState]:
  """The class of state, which says whether the method in use is linear."""
  linear = policy.is_linear(leaves)
  return CompressState if linear else NonlinearCompressState


def check(
  policy: _policy.Policy, leaves: list[_leaves.Leaf], state: Any, tree: Any
) -> None:
  """Raises unless the state is what this policy would have created.

  Args:
    policy: in use.
    leaves: of `tree`.
    state: of one worker.
    tree: the gradients.
  """
  if not isinstance(state, CompressState):
    raise TypeError(
      'The state of compress_gradients must be a CompressState, got a'
      f' {type(state).__name__}. If it comes from a checkpoint, pass it'
      ' through gl.place_state(..., tx=tx, params=params).'
    )
  kind = kind_of(policy, leaves)
  if type(state) is not kind:
    raise ValueError(
      f'The configuration in use needs a {kind.__name__}, got a'
      f' {type(state).__name__}: the state was created with another'
      f' compressor or factor_dtype. {REMEDY}'
    )
  treedef: Any = jax.tree.structure(tree)
  got = zip(
    treedef.flatten_up_to(state.error),
    treedef.flatten_up_to(state.memory),
    strict=True,
  )
  for leaf, (error, memory) in zip(leaves, got, strict=True):
    wanted = policy.state_shapes(leaf)
    if problem := _misfit(leaf, wanted, (error, memory)):
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


def _misfit(leaf: _leaves.Leaf, wanted: Any, got: Any) -> str | None:
  """What is wrong with the (error, compressor state) of a leaf."""
  (error, memory), (got_error, got_memory) = wanted, got
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
  if described(memory) != described(got_memory):
    method = leaf.compressor or 'a dense leaf'
    return (
      f'The compressor state of {leaf.path!r} must be {described(memory)} for'
      f' {method}, got {described(got_memory)}.'
    )
  return None


def described(tree: Any) -> str:
  """The arrays in a tree by dtype and shape, 'float32[1,16,4]'."""
  arrays = [
    f'{jnp.result_type(x)}[{",".join(map(str, jnp.shape(x)))}]'
    for x in jax.tree.leaves(tree)
  ]
  return ' and '.join(arrays) or 'nothing'
