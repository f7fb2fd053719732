"""From a command line to a configuration: CONFIG [--section.key VALUE ...]."""

import ast
import contextlib
import dataclasses
import difflib
import io
import pathlib
import re
import sys
from typing import Any

import tyro

from train import config

_SECTIONS = {
    name: value
    for name, value in vars(config).items()
    if isinstance(value, type) and issubclass(value, config.Section)
}


class UsageError(Exception):
  """A command that cannot be carried out, explained in one line."""


def parse(argv: list[str], prog: str) -> tuple[config.Config, str]:
  """Reads a command line.

  Args:
    argv: `CONFIG [--section.key VALUE ...]`.
    prog: how the program is called, for its help.

  Returns:
    The configuration, and the name of the file that it started from.

  Raises:
    UsageError: for an unknown key, a value out of range or a bad file.
    SystemExit: after printing the help that was asked for.
  """
  path, options = (None, argv) if _is_option(argv) else (argv[0], argv[1:])
  if path is None and not {'-h', '--help'} & set(options):
    raise UsageError(f'expected {prog} CONFIG [--section.key VALUE ...]')
  start = load(path) if path else config.Config()
  messages = io.StringIO()
  try:
    with contextlib.redirect_stderr(messages):
      parsed, unknown = tyro.cli(
          config.Config,
          prog=f'{prog} CONFIG',
          description='Trains what CONFIG (a file of configs/) describes.',
          args=options,
          default=start,
          use_underscores=True,
          return_unknown_args=True,
          config=(tyro.conf.FlagConversionOff,),
      )
  except SystemExit as stop:
    if not stop.code:
      raise
    raise UsageError(_first_paragraph(messages.getvalue())) from None
  if unknown:
    raise UsageError(_explain_unknown(unknown[0]))
  return parsed, pathlib.Path(path or 'default').stem


def load(path: str) -> config.Config:
  """Reads a file of configs/ without executing it.

  Such a file is Python of the simplest kind: a docstring, imports (for editors;
  they are not followed) and `config = Config(...)` with sections and literals.

  Raises:
    UsageError: if it is missing, is more than that, or holds a wrong value.
  """
  try:
    tree = ast.parse(pathlib.Path(path).read_text(encoding='utf-8'), path)
  except OSError as error:
    raise UsageError(f'{path}: {error.strerror}') from None
  except (SyntaxError, ValueError) as error:
    raise UsageError(f'{path}: not a configuration: {error}') from None
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


def _value(node: ast.expr, path: str):
  """A literal, or a section of the configuration with such values."""
  try:
    match node:
      case ast.Call(ast.Name(name), [], keywords) if name in _SECTIONS:
        known = [f.name for f in dataclasses.fields(_SECTIONS[name])]
        for keyword in keywords:
          if keyword.arg not in known:
            raise ValueError(
                f'{name} has no {keyword.arg!r}{_nearest(keyword.arg, known)}'
            )
        return _SECTIONS[name](
            **{str(k.arg): _value(k.value, path) for k in keywords}
        )
      case _:
        return ast.literal_eval(node)
  except (ValueError, TypeError) as error:
    raise UsageError(f'{path}, line {node.lineno}: {error}') from None


def _is_option(argv: list[str]) -> bool:
  return not argv or argv[0].startswith('-')


def _explain_unknown(argument: str) -> str:
  """What to say about an argument that no field of the configuration takes."""
  key = argument.lstrip('-').split('=')[0]
  if not argument.startswith('--'):
    return f'expected --section.key VALUE, got {argument!r}'
  return f'unknown option --{key}{_nearest(key, keys())}'


def _nearest(word: str | None, known: list[str]) -> str:
  close = difflib.get_close_matches(word or '', known, n=1, cutoff=0.0)
  return f'; the nearest is {close[0]!r}' if close else ''


def keys(section: Any = config.Config, prefix: str = '') -> list[str]:
  """Every key of the configuration, 'section.key'."""
  names = []
  for field in dataclasses.fields(section):
    if dataclasses.is_dataclass(field.default):
      names += keys(type(field.default), f'{prefix}{field.name}.')
    else:
      names.append(f'{prefix}{field.name}')
  return names


def _first_paragraph(box: str) -> str:
  """The message in a box that tyro drew, as one line."""
  plain = re.sub('\x1b.*?m', '', box)
  lines = [line.strip('│ ') for line in plain.splitlines()]
  inner = [line for line in lines if line and line[0] not in '╭╰']
  ends = [i for i, line in enumerate(inner) if line.startswith('──')]
  return ' '.join(inner[: ends[0]] if ends else inner)


def fail(error: Exception) -> int:
  """Says in one line what is wrong; returns the exit code for bad input."""
  print(f'error: {error}', file=sys.stderr)
  return 2
