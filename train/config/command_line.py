"""The command lines of all commands: CONFIG [--option VALUE ...].

A command declares its options as a dataclass, see `Options`. One that takes a
configuration also accepts every key of it as an option, --section.key VALUE.
"""

import ast
from collections.abc import Collection
import dataclasses
import sys
import typing
from typing import Any, TypeVar

from train.config import help_text, schema
from train.config.exit_codes import UsageError
from train.config.reader import SECTIONS, load, name_of
from train.config.section import Section, is_of, nearest

_KEYS = '[--section.key VALUE ...]'


class Options(Section):
  """The base of a command's options: a frozen dataclass of typed fields.

  The first field is the argument that is given without a name; if it is called
  `config`, the keys of a configuration are options, too. A bool is a flag, a
  tuple takes several values, and a field without a default is required. The
  docstrings of the class and of its fields are the command's help.
  """

  def _key(self, name: str) -> str:
    return f'--{name}'


_Options = TypeVar('_Options', bound=Options)


def read(
  argv: list[str], options: type[_Options], prog: str
) -> tuple[_Options, list[str]]:
  """Reads a command line.

  Args:
    argv: the words after the command. An option may be given once; --a-b is
      the same as --a_b.
    options: what the command accepts.
    prog: how the command is called: 'python -m train'.

  Returns:
    The options, and the words that override keys of the configuration.

  Raises:
    UsageError: if an option is unknown, missing, or has a wrong value.
    SystemExit: after printing the help that was asked for.
  """
  types = typing.get_type_hints(options)
  first = next(iter(types))
  keys = _types() if first == 'config' else {}
  missing = [x for x in types if not hasattr(options, x)]  # Without a default.
  usage = [f'--{x} VALUE' for x in missing if x != first]
  usage = [prog, first.upper(), *usage, _KEYS if keys else '[--option ...]']
  if {*help_text.ASKS} & {*argv}:
    print(help_text.describe(argv, options, ' '.join(usage)))
    sys.exit()
  words, given = _split(argv, keys | types)
  values, overrides = {}, []
  for key, texts in given.items():
    if key in types:
      hint = types[key]
      is_tuple = typing.get_origin(hint) is tuple
      if is_tuple and not texts:
        raise UsageError(f'--{key} takes one value or more, got none')
      count = len(texts) if is_tuple else int(hint is not bool)
      values[key] = hint is bool or _typed(key, texts[:count], hint)
      words += texts[count:]
    else:
      overrides += ['='.join([f'--{key}', *texts[:1]]), *texts[1:]]
  if words[1:]:
    raise UsageError(
      f'expected one {first.upper()}, got {words[0]!r} and {words[1]!r}'
    )
  values |= dict(zip([first], words, strict=False))
  if {*missing} - {*values} or str(values.get(first, '')).startswith('-'):
    raise UsageError(f'expected {" ".join(usage)}')
  try:
    return options(**values), overrides
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
  path, *overrides = words or ['']
  if not path:
    raise UsageError(f'expected {prog} CONFIG {_KEYS}')
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


def _types(
  section: type[Section] = schema.Config, prefix: str = ''
) -> dict[str, Any]:
  """Every key with its type."""
  found: dict[str, Any] = {}
  for name, hint in typing.get_type_hints(section).items():
    if hint in SECTIONS.values():
      found |= _types(hint, f'{prefix}{name}.')
    else:
      found[prefix + name] = hint
  return found


def _split(
  argv: list[str], known: Collection[str]
) -> tuple[list[str], dict[str, list[str]]]:
  """The words before the first option, and those of each option."""
  words: list[str] = []
  options: dict[str, list[str]] = {}
  texts = words
  for word in argv:
    if not word.startswith('--'):
      texts.append(word)
      continue
    key, *texts = word.removeprefix('--').split('=', 1)
    key = key.replace('-', '_')
    if key not in known:
      raise UsageError(f'unknown option --{key}{_meant(key, known)}')
    if key in options:
      raise UsageError(f'--{key} must be given once, got it twice')
    options[key] = texts
  return words, options


def _override(start: schema.Config, overrides: list[str]) -> schema.Config:
  """`--section.key VALUE ...` on top of a configuration."""
  types = _types()
  words, given = _split(overrides, types)
  if words:
    raise UsageError(f'expected --section.key VALUE, got {words[0]!r}')
  changes: dict[str, dict[str, Any]] = {}
  for key, texts in given.items():
    section, _, name = key.rpartition('.')
    changes.setdefault(section, {})[name] = _typed(key, texts, types[key])
  try:
    values = changes.pop('', {})
    for section, inner in changes.items():
      values[section] = dataclasses.replace(getattr(start, section), **inner)
    return dataclasses.replace(start, **values)
  except ValueError as error:
    raise UsageError(str(error)) from None


def _meant(key: str, known: Collection[str]) -> str:
  """The keys of that name in any section, else the nearest of all."""
  own = sorted(x for x in known if x.rpartition('.')[2] == key)
  return f'; there is {", ".join(own)}' if own else nearest(key, [*known])


def _typed(key: str, texts: list[str], hint: Any) -> Any:
  """Texts as a value of that type; a wrong one is left for the section."""
  if typing.get_origin(hint) is tuple:
    item = typing.get_args(hint)[0]
    if item is not str:  # Numbers may have commas between them.
      texts = ','.join(texts).split(',')
    return tuple(_typed(key, [text], item) for text in texts)
  if len(texts) != 1:
    given = ' '.join(texts) or 'none'
    raise UsageError(f'--{key} takes one value, got {given}')
  if hint is str:
    return texts[0]
  try:
    value = ast.literal_eval(texts[0])
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    return texts[0]
  of_type = not isinstance(value, str) and is_of(value, hint)
  return value if of_type else texts[0]
