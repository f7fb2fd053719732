"""The command lines of all commands: CONFIG [--option VALUE ...].

A command declares its options as a dataclass, see `Options`. One that takes a
configuration also accepts every key of it as an option, --section.key VALUE.
"""

import ast
from collections.abc import Collection
from collections.abc import Iterator
import dataclasses
import inspect
import sys
import textwrap
import typing
from typing import Any
from typing import TypeVar

from train.config import schema
from train.config.exit_codes import UsageError
from train.config.reader import SECTIONS
from train.config.reader import load
from train.config.reader import name_of
from train.config.section import Section
from train.config.section import is_of
from train.config.section import nearest

_PLACEHOLDERS = {int: 'N', float: 'X', str: 'TEXT', bool: 'True|False'}
_Types = dict[str, Any]


class Options(Section):
  """The base of a command's options: a frozen dataclass of typed fields.

  The first field is the argument that is given without a name; if it is called
  `config`, the keys of a configuration are options, too. A bool is a flag, a
  tuple takes several values, and a field without a default is required. The
  docstrings of the class and of the fields are the command's help.
  """

  def _key(self, name: str) -> str:
    return f'--{name}'


_Read = TypeVar('_Read', bound=Options)


def read(
  argv: list[str], options: type[_Read], prog: str
) -> tuple[_Read, list[str]]:
  """Reads a command line.

  Args:
    argv: the words after the command. An option may be given once; its hyphens
      are underscores: --learning-rates is --learning_rates.
    options: what the command accepts.
    prog: how it is called: 'python -m train'.

  Returns:
    The options, and the words that override keys of the configuration.

  Raises:
    UsageError: if an option is unknown, missing, or has a wrong value.
    SystemExit: after printing the help that was asked for.
  """
  own = typing.get_type_hints(options)
  first = next(iter(own))
  overrides = _types() if first == 'config' else {}
  expected = f'expected {prog} {_usage(options)}'
  if {'-h', '--help'} & {*argv}:
    path = argv[0] if overrides and not argv[0].startswith('-') else ''
    print('\n'.join(_help(options, load(path) if path else None, prog)))
    sys.exit()
  loose, given = _options(argv, overrides | own)
  values, rest = {}, []
  for key, words in given.items():
    if key not in own or key == first:
      rest += [f'--{key}', *words]
      continue
    is_tuple = typing.get_origin(own[key]) is tuple
    taken = len(words) if is_tuple else int(own[key] is not bool)
    if is_tuple and not words:
      raise UsageError(f'--{key} takes one value or more, got none')
    values[key] = _typed(key, words[:taken], own[key])
    loose += words[taken:]
  if loose[1:]:
    raise UsageError(
      f'expected one {first.upper()}, got {loose[0]!r} and {loose[1]!r}'
    )
  values |= {first: loose[0]} if loose else {}
  required = {
    x.name for x in _fields(options) if x.default is dataclasses.MISSING
  }
  if required - values.keys() or ''.join(loose).startswith('-'):
    raise UsageError(expected)
  try:
    return options(**values), rest
  except ValueError as error:
    raise UsageError(str(error)) from None


def parse(words: list[str], prog: str) -> tuple[schema.Config, str]:
  """Reads a configuration and what overrides its keys.

  Args:
    words: `CONFIG [--section.key VALUE ...]`.
    prog: how the command is called, for messages.

  Returns:
    The configuration, and its name below configs/: 'greedylore/llama_60m'.

  Raises:
    UsageError: for an unknown key, a value out of range or a bad file.
  """
  if not words or not words[0]:
    raise UsageError(f'expected {prog} CONFIG [--section.key VALUE ...]')
  path, *overrides = words
  return _override(load(path), overrides), name_of(path)


def without(words: list[str], keys: Collection[str]) -> list[str]:
  """The words of a command line without the options of these keys.

  Example:
    >>> without(['--steps', '3', '--seed=1'], {'steps'})
    ['--seed=1']
  """
  kept, keep = [], True
  for word in words:
    if word.startswith('--'):
      keep = word.removeprefix('--').split('=', 1)[0] not in keys
    if keep:
      kept.append(word)
  return kept


def keys() -> list[str]:
  """Every key of the configuration, 'section.key'."""
  return [*_types()]


def _types(section: type[Section] = schema.Config, prefix: str = '') -> _Types:
  """Every key with its type."""
  found: _Types = {}
  for name, hint in typing.get_type_hints(section).items():
    if hint in SECTIONS.values():
      found |= _types(hint, f'{prefix}{name}.')
    else:
      found[prefix + name] = hint
  return found


def _options(
  words: list[str], known: Collection[str]
) -> tuple[list[str], dict[str, list[str]]]:
  """The words before the first option, and those of each option."""
  loose: list[str] = []
  found: dict[str, list[str]] = {}
  values = loose
  for word in words:
    if not word.startswith('--'):
      values.append(word)
      continue
    key, *values = word.removeprefix('--').split('=', 1)
    key = key.replace('-', '_')
    if key not in known:
      raise UsageError(f'unknown option --{key}{nearest(key, [*known])}')
    if key in found:
      raise UsageError(f'--{key} must be given once, got it twice')
    found[key] = values
  return loose, found


def _override(start: schema.Config, words: list[str]) -> schema.Config:
  """`--section.key VALUE ...` on top of a configuration."""
  types = _types()
  loose, given = _options(words, types)
  if loose:
    raise UsageError(f'expected --section.key VALUE, got {loose[0]!r}')
  changes: dict[str, dict[str, Any]] = {}
  for key, values in given.items():
    section, _, name = key.rpartition('.')
    changes.setdefault(section, {})[name] = _typed(key, values, types[key])
  try:
    top = changes.pop('', {})
    for section, inner in changes.items():
      top[section] = dataclasses.replace(getattr(start, section), **inner)
    return dataclasses.replace(start, **top)
  except ValueError as error:
    raise UsageError(str(error)) from None


def _typed(key: str, words: list[str], hint: Any) -> Any:
  """Words as a value of that type; a wrong one is left for the section."""
  if typing.get_origin(hint) is tuple:
    item = typing.get_args(hint)[0]
    if item is str:
      return tuple(words)
    listed = [x for word in words for x in word.split(',')]
    return tuple(_typed(key, [word], item) for word in listed)
  if hint is bool and not words and '.' not in key:
    return True
  if len(words) != 1:
    given = ' '.join(words) or 'none'
    raise UsageError(f'--{key} takes one value, got {given}')
  if hint is str:
    return words[0]
  try:
    value = ast.literal_eval(words[0])
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    return words[0]
  of_type = not isinstance(value, str) and is_of(value, hint)
  return value if of_type else words[0]


def _fields(section: type[Section]) -> tuple[dataclasses.Field[Any], ...]:
  return dataclasses.fields(section)  # type: ignore[arg-type]


def _usage(options: type[Options]) -> str:
  """'CONFIG --num_processes N [--section.key VALUE ...]'."""
  first, *others = _fields(options)
  hints = typing.get_type_hints(options)
  required = [x.name for x in others if x.default is dataclasses.MISSING]
  words = [f'--{x} {_placeholder(hints[x])}' for x in required]
  rest = '[--option VALUE ...]'
  if first.name == 'config':
    rest = '[--section.key VALUE ...]'
  return ' '.join([first.name.upper(), *words, rest])


def _placeholder(hint: Any) -> str:
  """The values of a type, as the help names them."""
  if hint in _PLACEHOLDERS:
    return _PLACEHOLDERS[hint]
  items = [x for x in typing.get_args(hint) if x not in (type(None), ...)]
  match typing.get_origin(hint):
    case typing.Literal:
      return '|'.join(map(str, items))
    case origin if origin is tuple:
      return f'{_placeholder(items[0])} ...'
  return '|'.join(map(_placeholder, items))


def _help(
  options: type[Options], start: schema.Config | None, prog: str
) -> Iterator[str]:
  """Every option, and every key with its value in `start`."""
  yield f'usage: {prog} {_usage(options)}\n'
  yield f'{inspect.cleandoc(options.__doc__ or "")}\n'
  yield from _help_of_section(options, None, '--')
  if _fields(options)[0].name == 'config':
    start = start or schema.Config()
    yield 'Keys of the configuration, with their values in it:\n'
    yield from _help_of_section(schema.Config, start, '--')


def _help_of_section(
  section: type[Section], values: Section | None, prefix: str
) -> Iterator[str]:
  hints, meanings = typing.get_type_hints(section), _meanings(section)
  for field in _fields(section):
    name, hint = field.name, hints[field.name]
    value = getattr(values, name, field.default)
    if isinstance(value, Section):
      yield from _help_of_section(type(value), value, f'{prefix}{name}.')
      continue
    is_flag = hint is bool and values is None
    is_first = values is None and field is _fields(section)[0]
    yield (
      name.upper()
      if is_first
      else (prefix + name + ('' if is_flag else f' {_placeholder(hint)}'))
    )
    text = meanings[name]
    if value is not dataclasses.MISSING and not is_flag and not is_first:
      text += f' (default: {value!r})'
    yield textwrap.indent(textwrap.fill(text, 74), 6 * ' ') + '\n'


def _meanings(section: type[Section]) -> dict[str, str]:
  """The docstring below each field of a dataclass, in one line."""
  (tree,) = ast.parse(inspect.getsource(section)).body
  assert isinstance(tree, ast.ClassDef)
  found = {}
  for node, after in zip(tree.body, tree.body[1:], strict=False):
    match node, after:
      case (ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text)))):
        found[name] = ' '.join(text.split())
  return found
