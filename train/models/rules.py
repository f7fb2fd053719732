"""Values for parameters by ordered rules over their paths."""

from collections.abc import Sequence
import re
from typing import Any

import jax


def by_path(rules: Sequence[tuple[str, Any]], params: Any) -> Any:
  """Gives each parameter the value of the first rule that matches its path.

  A rule is a regular expression, which has to match the whole path
  (`blocks/0/attention/query`), and a value.

  Raises:
    ValueError: If no rule matches a parameter, so none is left to chance.

  Example:
    >>> by_path([('.*/bias', 0), ('.*', 1)], {'a': {'bias': 2., 'kernel': 3.}})
    {'a': {'bias': 0, 'kernel': 1}}
  """

  def value_of(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    for pattern, value in rules:
      if re.fullmatch(pattern, name):
        return value
    patterns = ', '.join(repr(pattern) for pattern, _ in rules)
    raise ValueError(
      f'no rule covers the parameter {name!r}; add one to {patterns}.'
    )

  return jax.tree_util.tree_map_with_path(value_of, params)
