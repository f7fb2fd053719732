"""Arguments out of range: what was expected, and what came."""

from collections.abc import Sequence
import numbers
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from greedylore_jax._src.types import Function, KeyPath, PyTree

FLOATING = 'bfloat16', 'float16', 'float32', 'float64'


def check_integer(
  name: str,
  value: Any,
  at_least: int = 1,
  *,
  at_most: int = 2**31 - 1,
  expected: str = 'an int',
) -> None:
  """Raises unless `value` is an int, or NumPy's, in the range."""
  if not isinstance(value, numbers.Integral) or isinstance(value, bool):
    raise TypeError(
      f'{name} must be {expected}, got {name}={value!r}.{_if_injected(value)}'
    )
  if value < at_least:
    raise ValueError(
      f'{name} must be at least {at_least}, got {name}={value!r}.'
    )
  if int(value) > at_most:
    raise ValueError(f'{name} must be at most {at_most}, got {name}={value!r}.')


def check_seed(value: Any) -> None:
  """Raises unless `value` is an int that seeds a key."""
  check_integer('seed', value, at_least=0, at_most=2**63 - 1)


def check_number(name: str, value: Any) -> None:
  """Raises unless `value` is a number, or NumPy's, and one that compares."""
  if not isinstance(value, numbers.Real) or isinstance(value, bool):
    raise TypeError(
      f'{name} must be a number, got {name}={value!r}.{_if_injected(value)}'
    )
  if value != value:
    raise ValueError(f'{name} must be a number, got {name}=NaN.')


def _if_injected(value: Any) -> str:
  """What to do about an array in the place of a Python number."""
  if not isinstance(value, jax.Array):
    return ''
  return (
    ' optax.inject_hyperparams turns numbers into arrays: list this argument'
    ' in its static_args.'
  )


def check_positive(name: str, value: Any) -> None:
  """Raises unless `value` is a number above 0."""
  check_number(name, value)
  if not 0 < value < float('inf'):
    raise ValueError(
      f'{name} must be above 0 and finite, got {name}={value!r}.'
    )


def check_nonnegative(
  name: str, value: Any, *, below: float = float('inf')
) -> None:
  """Raises unless `value` is a number in [0, below), or an array.

  `optax.inject_hyperparams` passes arrays, whose values are not known yet.
  """
  if isinstance(value, jax.Array | np.ndarray):
    return
  check_number(name, value)
  if not 0 <= value < below:
    finite = below == float('inf')
    expected = 'at least 0 and finite' if finite else f'in [0, {below:g})'
    raise ValueError(f'{name} must be {expected}, got {name}={value!r}.')


def check_bool(name: str, value: Any) -> None:
  """Raises unless `value` is True or False, or NumPy's."""
  if not isinstance(value, bool | np.bool_):
    raise TypeError(f'{name} must be True or False, got {name}={value!r}.')


def check_share(name: str, value: Any, or_zero: bool = False) -> None:
  """Raises unless `value` is a number in (0, 1], or in [0, 1]."""
  check_number(name, value)
  if not 0 <= value <= 1 or (value == 0 and not or_zero):
    interval = '[0, 1]' if or_zero else '(0, 1]'
    raise ValueError(f'{name} must be in {interval}, got {name}={value!r}.')


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
  """Raises unless `value` is one of the choices, an int no float or bool."""
  same_kind: Function = lambda x: (
    isinstance(value, type(x))
    or (isinstance(x, int) and isinstance(value, numbers.Integral))
  )
  is_choice = any(same_kind(x) and value == x for x in choices)
  if not is_choice or isinstance(value, bool):
    known = ', '.join(map(repr, choices[:-1])) + f' or {choices[-1]!r}'
    raise ValueError(f'{name} must be {known}, got {name}={value!r}.')


def check_dtype(name: str, value: Any, known: Sequence[str]) -> None:
  """Raises unless `value` is None or a dtype of one of these names."""
  if value is None:
    return
  try:
    found = jnp.dtype(value).name
  except TypeError:
    found = None
  if found not in known:
    raise TypeError(
      f'{name} must be None or one of the dtypes {", ".join(known)}, got'
      f' {name}={value!r}.'
    )


def check_axis_name(value: Any) -> None:
  """Raises unless `value` is None, a string or a tuple of strings."""
  given = value if isinstance(value, tuple) else (value,)
  if value is not None and not all(isinstance(x, str) for x in given):
    raise TypeError(
      'axis_name must be the name of a mesh axis, a tuple of names, or None'
      f' for one worker, got axis_name={value!r}.'
    )
  if len(set(given)) < len(given):
    raise ValueError(
      f'axis_name must name every axis once, got axis_name={value!r}.'
    )


def check_params(params: Any) -> None:
  """Raises unless `params` is a tree of arrays, of shapes, or of numbers."""
  expected = (
    'params must be the parameters, or jax.ShapeDtypeStructs in their place'
  )
  if params is None:
    raise TypeError(f'{expected}, got params=None.')
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    if not hasattr(x, 'dtype') and not isinstance(x, numbers.Number):
      where = f' at {path_name(path)!r}' if path else ''
      raise TypeError(
        f'{expected}, got {type(x).__name__}{where}: a class of your own must'
        ' be registered, see jax.tree_util.register_dataclass.'
      )


def check_patterns_match(
  where: str, patterns: Sequence[str], tree: PyTree
) -> None:
  """Raises if a pattern of an argument matches no leaf of a tree.

  A leaf for which the tree holds an `optax.MaskedNode` counts, too.
  """
  paths = [
    path_name(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_masked)
  ]
  for pattern in patterns:
    if paths and not any(re.search(pattern, path) for path in paths):
      raise ValueError(
        f'The pattern {pattern!r} in {where} matches no leaf of the parameters;'
        f' they are {", ".join(paths)}.'
      )


def is_part(tree: PyTree) -> bool:
  """Whether leaves of the tree are masked, so others look after them."""
  return any(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked)))


def _is_masked(x: Any) -> bool:
  return isinstance(x, optax.MaskedNode)


def path_name(path: KeyPath) -> str:
  """A leaf's path as it is printed and matched: 'blocks/0/query'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')
