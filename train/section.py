"""A part of a configuration: a frozen dataclass that checks its own values."""

import types
import typing
from typing import Any


class Section:
  """A part of the configuration that checks itself when it is built."""

  def __post_init__(self):
    hints = typing.get_type_hints(type(self))
    for name, hint in hints.items():
      value = getattr(self, name)
      if not is_of(value, hint):
        raise ValueError(
            f'{self._key(name)} must be {_words(hint)}, got {value!r}.'
        )
    self._check()

  def _check(self) -> None:
    """Raises a ValueError for values that are of the right type but no good."""

  def _key(self, name: str) -> str:
    """A field as it is written on the command line: section.name."""
    section = type(self).__name__.lower()
    return name if section == 'config' else f'{section}.{name}'

  def _at_least(self, bound: float, *names: str) -> None:
    """Raises for a value that is smaller, or nan; None is no value."""
    for name in names:
      value = getattr(self, name)
      if value is not None and not value >= bound:
        raise ValueError(
            f'{self._key(name)} must be at least {bound}, got {value!r}.'
        )

  def _fraction(self, *names: str) -> None:
    """Raises for a value outside of [0, 1]; None is no value."""
    for name in names:
      value = getattr(self, name)
      if value is not None and not 0 <= value <= 1:
        raise ValueError(
            f'{self._key(name)} is a fraction between 0 and 1, got {value!r}.'
        )


def is_of(value: Any, hint: Any) -> bool:
  """Whether a value is of a type as it is written in a section."""
  match typing.get_origin(hint):
    case typing.Literal:
      return value in typing.get_args(hint)
    case types.UnionType | typing.Union:
      return any(is_of(value, h) for h in typing.get_args(hint))
    case origin if origin is tuple:
      item = typing.get_args(hint)[0]
      return isinstance(value, tuple) and all(is_of(v, item) for v in value)
  if isinstance(value, bool):
    return hint is bool
  return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> str:
  """A type as a person would say it."""
  match typing.get_origin(hint):
    case typing.Literal:
      choices = [*map(repr, typing.get_args(hint))]
      return ('one of ' if len(choices) > 1 else '') + ', '.join(choices)
    case types.UnionType | typing.Union:
      return ' or '.join(map(_words, typing.get_args(hint)))
    case origin if origin is tuple:
      return 'a tuple of strings'
  names = {int: 'an integer', float: 'a number', str: 'a string'}
  names |= {bool: 'True or False', types.NoneType: 'None'}
  return names.get(hint, f'a {hint.__name__}')
