"""Where two configurations differ, key by key."""

from typing import Any


def between(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
  """{'data.bytes': (value in one, value in the other)}, where they differ.

  Both are nested dicts of what JSON can hold, with tuples equal to lists. The
  value of a missing key is None.
  """
  left, right = flat(one), flat(other)
  return {
    key: (left.get(key), right.get(key))
    for key in sorted(left.keys() | right.keys())
    if left.get(key) != right.get(key)
  }


def unknown_keys(one: Any, other: Any) -> list[str]:
  """The keys that only one of two nested dicts has."""
  return sorted(flat(one).keys() ^ flat(other).keys())


def flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Nested dicts as {'data.bytes': ...}; sequences as lists, as in JSON."""
  if not isinstance(tree, dict):
    return {prefix: list(tree) if isinstance(tree, tuple) else tree}
  found: dict[str, Any] = {}
  for key, value in tree.items():
    found |= flat(value, f'{prefix}.{key}'.removeprefix('.'))
  return found
