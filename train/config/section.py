"""A part of a configuration: a frozen dataclass that checks its own values."""

from collections.abc import Callable
import difflib
import types
import typing
from typing import Any

# Programs count in 32 bits, and seeds fill as many; bytes of data may be more.
# XLA ends the process where the size of a matrix overflows.
_LARGEST = {
  'seed': 2**32 - 1,
  'max_bytes': 2**63 - 1,
  'width': 2**20,
  'feed_forward': 2**20,
  'layers': 2**16,
}
_LARGEST_INTEGER = 2**31 - 1
_LARGEST_FLOAT32 = 3.4028234e38


class Section:
  """A part of the configuration that checks itself when it is built."""

  def __post_init__(self) -> None:
    hints = typing.get_type_hints(type(self))
    for name, hint in hints.items():
      if not is_of(getattr(self, name), hint):
        value = shown(getattr(self, name))
        raise ValueError(
          f'{self._key(name)} must be {describe_type(hint)}, got {value}.'
        )
      if hint in (int, int | None):
        largest = _LARGEST.get(name, _LARGEST_INTEGER)
        self._at_most(largest, name)
    self._check()

  def _check(self) -> None:
    """Raises a ValueError for values that are of the right type but no good."""

  def only_for(self, reader: str, *names: str) -> None:
    """Raises a ValueError if a key that only `reader` reads is not default."""
    fields: dict[str, Any] = vars(type(self))['__dataclass_fields__']
    for name in names:
      value = getattr(self, name)
      if value != fields[name].default:
        raise ValueError(
          f'{self._key(name)} is only for {reader}: leave it at'
          f' {fields[name].default!r}, got {shown(value)}.'
        )

  def _key(self, name: str) -> str:
    """A field as it is written on the command line: section.name."""
    section = type(self).__name__.lower()
    return name if section == 'config' else f'{section}.{name}'

  def _require(
    self, holds: Callable[[Any], bool], expected: str, *names: str
  ) -> None:
    """Raises for a wrong value, or item of a tuple; None is no value."""
    for name in names:
      value = getattr(self, name)
      for x in value if isinstance(value, tuple) else (value,):
        if x is not None and not holds(x):
          raise ValueError(
            f'{self._key(name)} must be {expected}, got {shown(x)}.'
          )

  def _at_least(self, bound: float, *names: str) -> None:
    self._require(lambda x: x >= bound, f'at least {bound}', *names)

  def _above(self, bound: float, *names: str) -> None:
    self._require(lambda x: x > bound, f'above {bound}', *names)

  def _at_most(self, bound: float, *names: str) -> None:
    self._require(lambda x: x <= bound, f'at most {bound}', *names)

  def _below(self, bound: float, *names: str) -> None:
    self._require(lambda x: x < bound, f'below {bound}', *names)

  def _fraction(self, *names: str) -> None:
    expected = 'a fraction between 0 and 1'
    self._require(lambda x: 0 <= x <= 1, expected, *names)


def is_of(value: Any, hint: Any) -> bool:
  """Whether a value is of a type as it is written in a section.

  A float is finite, also as a float32.
  """
  match typing.get_origin(hint):
    case typing.Literal:
      choices = typing.get_args(hint)
      return any(type(x) is type(value) and x == value for x in choices)
    case types.UnionType | typing.Union:
      return any(is_of(value, h) for h in typing.get_args(hint))
    case origin if origin is tuple:
      item = typing.get_args(hint)[0]
      return isinstance(value, tuple) and all(is_of(v, item) for v in value)
  if isinstance(value, bool):
    return hint is bool
  if hint is float:
    is_number = isinstance(value, (int, float))
    return is_number and -_LARGEST_FLOAT32 <= value <= _LARGEST_FLOAT32
  return isinstance(value, hint)


def shown(value: Any) -> str:
  """A value for an error message: its `repr`, shortened."""
  try:
    text = repr(value)
  except ValueError:  # Python refuses to print an integer of so many digits.
    return 'a number of thousands of digits'
  return text if len(text) <= 100 else f'{text[:80]} ...'


def nearest(word: str, known: list[str]) -> str:
  """'; the nearest is ...', or nothing if none is near."""
  close = difflib.get_close_matches(word, known, n=1)
  return f'; the nearest is {close[0]!r}' if close else ''


def describe_type(hint: Any) -> str:
  """A type as a person would say it."""
  match typing.get_origin(hint):
    case typing.Literal:
      choices = [*map(repr, typing.get_args(hint))]
      return ('one of ' if len(choices) > 1 else '') + ', '.join(choices)
    case types.UnionType | typing.Union:
      return ' or '.join(map(describe_type, typing.get_args(hint)))
    case origin if origin is tuple:
      item = typing.get_args(hint)[0]
      items = {int: 'integers', float: 'finite numbers', str: 'strings'}
      each = items.get(item) or f'values, each {describe_type(item)}'
      return f'a tuple of {each}'
  names = {int: 'an integer', float: 'a finite number', str: 'a string'}
  names |= {bool: 'True or False', types.NoneType: 'None'}
  return names.get(hint, f'a {hint.__name__}')
