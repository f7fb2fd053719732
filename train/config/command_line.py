"""From a command line to a configuration: CONFIG [--section.key VALUE ...]."""

import argparse
import ast
from collections.abc import Callable
from collections.abc import Collection
import dataclasses
import difflib
import os
import pathlib
import sys
import textwrap
import typing
from typing import Any

import tyro

from train.config import schema as config
from train.config.section import Section
from train.config.section import is_of

_SECTIONS = {
  name: value
  for name, value in vars(config).items()
  if isinstance(value, type) and issubclass(value, Section)
}


# Exit codes beside 0 and, for bad input, 2.
DIVERGED = 3
PREEMPTED = 75  # Asked to stop, saved; EX_TEMPFAIL, "try again".
INTERRUPTED = 130
CLOSED = 141  # The reader of the output has gone: 128 + SIGPIPE.


class UsageError(Exception):
  """A command that cannot be carried out, explained in one line."""


class Once(argparse.Action):
  """Stores the value of an option that may be given once."""

  def __call__(self, parser, namespace, values, option_string=None):
    """Called by argparse for each time the option is given."""
    given = vars(namespace).setdefault('_given', set())
    if self.dest in given:
      parser.error(f'{option_string} must be given once, got it twice')
    given.add(self.dest)
    setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
  """Says in one line what is wrong, as a UsageError.

  An option may be given once.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.register('action', None, Once)
    self.register('action', 'store', Once)

  def error(self, message: str) -> typing.NoReturn:
    """Called with what argparse found."""
    raise UsageError(message)


def parse(argv: list[str], prog: str) -> tuple[config.Config, str]:
  """Reads a command line.

  Args:
    argv: `CONFIG [--section.key VALUE ...]`.
    prog: how the program is called, for its help.

  Returns:
    The configuration, and the name of the file that it started from, with the
    folders below configs/, if it lies there: 'greedylore/llama_60m'.

  Raises:
    UsageError: for an unknown key, a value out of range or a bad file.
    SystemExit: after printing the help that was asked for.
  """
  path = argv[0] if argv and not argv[0].startswith('-') else ''
  options = argv[1:] if path else argv
  asks_help = bool({'-h', '--help'} & set(options))
  if not path and not asks_help:
    raise UsageError(f'expected {prog} CONFIG [--section.key VALUE ...]')
  start = load(path) if path else config.Config()
  if asks_help:
    _print_help(start, prog)
  return _override(start, options), name_of(path)


def name_of(path: str) -> str:
  """What a file of configs/ is called, so that no two of them are the same.

  Example:
    >>> name_of('/home/me/configs/tsr/glue_cola.py'), name_of('../mine.py')
    ('tsr/glue_cola', 'mine')
  """
  *folders, file = pathlib.Path(path).with_suffix('').parts
  below = folders[::-1].index('configs') if 'configs' in folders else 0
  return '/'.join([*folders[len(folders) - below :], file])


def _print_help(start: config.Config, prog: str) -> typing.NoReturn:
  """Every key with its type, meaning and value in `start`; then exits."""
  tyro.cli(
    config.Config,
    prog=f'{prog} CONFIG',
    description='Trains what CONFIG (a file of configs/) describes. `python'
    ' -m train CONFIG --plan` only says what steps would send and take.',
    args=['--help'],
    default=start,
    use_underscores=True,
    config=(tyro.conf.FlagConversionOff,),
  )
  sys.exit()


def load(path: str) -> config.Config:
  """Reads a file of configs/ without executing it.

  Such a file is Python of the simplest kind: a docstring, imports (for editors;
  they are not followed) and `config = Config(...)` with sections and literals.

  Raises:
    UsageError: if it is missing, is more than that, or holds a wrong value.
  """
  try:
    text = pathlib.Path(path).read_text(encoding='utf-8')
    return _config(ast.parse(text, path), path)
  except OSError as error:
    raise UsageError(f'{path}: {error.strerror}') from None
  except (RecursionError, MemoryError):
    raise UsageError(
      f'{path}: not a configuration: expected literals, got an expression'
      ' that is nested too deeply'
    ) from None
  except (SyntaxError, ValueError) as error:
    raise UsageError(f'{path}: not a configuration: {error}') from None


def _config(tree: ast.Module, path: str) -> config.Config:
  """The configuration that a parsed file assigns."""
  expected = (
    f'{path}: a configuration is a docstring, imports and one assignment'
    ' config = Config(...)'
  )
  found = None
  for i, node in enumerate(tree.body):
    match node:
      case ast.Expr(ast.Constant(str())) if i == 0:
        pass
      case ast.Import() | ast.ImportFrom():
        pass
      case ast.Assign([ast.Name('config')], value) if found is None:
        found = _value(value, path)
      case _:
        raise UsageError(f'{expected}, line {node.lineno} is something else')
  if not isinstance(found, config.Config):
    raise UsageError(f'{expected}, which is missing')
  return found


def _value(node: ast.expr, path: str) -> Any:
  """A literal, or a section of the configuration with such values."""
  try:
    match node:
      case ast.Call(ast.Name(name), [], keywords) if all(
        keyword.arg for keyword in keywords
      ):
        values = [(str(k.arg), _value(k.value, path)) for k in keywords]
        return _section(name, values)
      case _:
        return _literal(node)
  except ValueError as error:
    raise UsageError(f'{path}, line {node.lineno}: {error}') from None


def _section(name: str, values: list[tuple[str, Any]]) -> Section:
  if name not in _SECTIONS:
    hint = nearest(name, [*_SECTIONS])
    raise ValueError(f'there is no section {name!r}{hint}')
  known = [*typing.get_type_hints(_SECTIONS[name])]
  for i, (key, _) in enumerate(values):
    if key not in known:
      raise ValueError(f'{name} has no {key!r}{nearest(key, known)}')
    if key in dict(values[:i]):
      raise ValueError(f'{name} is given {key!r} twice')
  return _SECTIONS[name](**dict(values))


def _literal(node: ast.expr) -> Any:
  try:
    return ast.literal_eval(node)
  except (ValueError, TypeError):
    found = textwrap.shorten(ast.unparse(node), 60, placeholder=' ...')
    raise ValueError(
      f'expected a literal or a section with key=value, got {found}'
    ) from None


def _override(start: config.Config, options: list[str]) -> config.Config:
  """`--section.key VALUE ...` on top of a configuration."""
  types = _types()
  changes: dict[str, dict[str, Any]] = {}
  for key, words in _pairs(options):
    if key not in types:
      raise UsageError(f'unknown option --{key}{nearest(key, [*types])}')
    section, _, name = key.rpartition('.')
    inner = changes.setdefault(section, {})
    if name in inner:
      raise UsageError(f'--{key} must be given once, got it twice')
    inner[name] = _typed(key, words, types[key])
  try:
    values = changes.pop('', {})
    for section, inner in changes.items():
      values[section] = dataclasses.replace(getattr(start, section), **inner)
    return dataclasses.replace(start, **values)
  except ValueError as error:
    raise UsageError(str(error)) from None


def _pairs(options: list[str]) -> list[tuple[str, list[str]]]:
  """`--key VALUE ...` or `--key=VALUE`, as keys and the words after them."""
  pairs: list[tuple[str, list[str]]] = []
  for word in options:
    if word.startswith('--'):
      key, *values = word.removeprefix('--').split('=', 1)
      pairs.append((key, values))
    elif pairs:
      pairs[-1][1].append(word)
    else:
      raise UsageError(f'expected --section.key VALUE, got {word!r}')
  return pairs


def _typed(key: str, words: list[str], hint: Any) -> Any:
  """Words as a value of that type; what is not of it is left for the check."""
  if typing.get_origin(hint) is tuple:
    return tuple(words)
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


def without(options: list[str], keys: Collection[str]) -> list[str]:
  """A command line's options less those of some keys.

  Example:
    >>> without(['--steps', '3', '--seed=1'], {'steps'})
    ['--seed=1']
  """
  kept, keep = [], True
  for word in options:
    if word.startswith('--'):
      keep = word.removeprefix('--').split('=', 1)[0] not in keys
    if keep:
      kept.append(word)
  return kept


def nearest(word: str, known: list[str]) -> str:
  """'; the nearest is ...', or nothing if none is near."""
  close = difflib.get_close_matches(word, known, n=1)
  return f'; the nearest is {close[0]!r}' if close else ''


def keys() -> list[str]:
  """Every key of the configuration, 'section.key'."""
  return [*_types()]


def _types(section: Any = config.Config, prefix: str = '') -> dict[str, Any]:
  """Every key with its type."""
  found: dict[str, Any] = {}
  for name, hint in typing.get_type_hints(section).items():
    if hint in _SECTIONS.values():
      found |= _types(hint, f'{prefix}{name}.')
    else:
      found[prefix + name] = hint
  return found


def fail(error: Exception, code: int = 2) -> int:
  """Prints one line about what is wrong; returns the exit code.

  Raises:
    BrokenPipeError: if that is the error; see `run`.
  """
  if isinstance(error, BrokenPipeError):
    raise error
  print(f'error: {error}', file=sys.stderr)
  return code


def run(main: Callable[[list[str]], int]) -> int:
  """Runs a command; returns its exit code.

  If nobody reads its output any more (`| head`), the command ends without a
  word, as programs in a pipe do.
  """
  try:
    try:
      code = main(sys.argv[1:])
    except SystemExit as done:  # After the help.
      code = int(done.code or 0)
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    discard_output()
    return CLOSED


def discard_output() -> None:
  """Discards what is printed from now on."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
