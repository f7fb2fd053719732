"""What `-h` and `--help` print: an overview, and every key with its meaning."""

import ast
from collections.abc import Collection, Iterator
import inspect
import itertools
import textwrap
import typing
from typing import Any

from train.config import schema
from train.config.exit_codes import UsageError
from train.config.reader import load
from train.config.section import Section, describe_type, nearest

ASKS = ('-h', '--help')


def describe(argv: list[str], options: type[Section], usage: str) -> str:
  """The help that a command line asks for.

  `-h` is the overview, `--help` also lists all keys, and a section's name after
  either of them lists the keys of that section. After a configuration, keys
  have the values that it gives them.

  Raises:
    UsageError: if there is no such section or configuration.
  """
  first, *others = typing.get_type_hints(options)
  own = '\n'.join(_entries(options, options))
  own = own.replace(f'--{first} ', first.upper(), 1)
  about = inspect.cleandoc(options.__doc__ or '')
  overview = f'usage: {usage}\n\n{about}\n\n{own}'
  if first != 'config':
    return overview
  path = argv[0] if argv[0][:1] != '-' else ''
  start = load(path) if path else schema.Config()
  sections = {
    name: value
    for name, value in vars(start).items()
    if isinstance(value, Section)
  }
  asked = min(argv.index(x) for x in ASKS if x in argv)
  name = ''.join(argv[asked + 1 : asked + 2])
  if name and name[0] != '-':
    if name not in sections:
      raise UsageError(
        f'{argv[asked]} takes nothing or one of {", ".join(sections)}, got'
        f' {name!r}{nearest(name, [*sections])}'
      )
    part = sections[name]
    keys = '\n'.join(_entries(type(part), part, f'--{name}.'))
    return f'{_about(part)}\n{keys}'
  plain = [x for x in vars(start) if x not in {*sections, *others}]
  overview += '\n\nKeys of the configuration, and its sections of keys:\n'
  overview += f'  {", ".join(f"--{x}" for x in plain)}\n'
  width = max(map(len, sections)) + 7
  for name, part in sections.items():
    overview += f'  {f"--{name}.KEY":{width}}  {_about(part)}\n'
  prog = usage.partition(f' {first.upper()}')[0]
  overview += (
    f'\n"{prog} --help data" lists the keys of section data,'
    '\n"--help" those of all sections, and "CONFIG --help" their values.'
  )
  if argv[asked] == '-h':
    return overview
  keys = '\n'.join(_entries(schema.Config, start, hidden=others))
  end = f'"{prog} -h" prints an overview of these keys.'
  return f'{overview}\n\n{keys}\n\n{end}'


def _about(section: Section) -> str:
  return inspect.cleandoc(section.__doc__ or '')


def _entries(
  section: type[Section],
  values: Any,
  prefix: str = '--',
  hidden: Collection[str] = (),
) -> Iterator[str]:
  """Every field of a section with its value, docstring and type.

  Keys in `hidden` are left out: options of the command that have their name.
  """
  (tree,) = ast.parse(inspect.getsource(section)).body
  assert isinstance(tree, ast.ClassDef)
  hints, indent = typing.get_type_hints(section), 6 * ' '
  for field, after in itertools.pairwise([*tree.body, tree]):
    match field, after:
      case ast.AnnAssign(ast.Name(name)), _ if name in hidden:
        pass
      case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
        value = getattr(values, name, '')
        is_flag = value is False and values is section
        yield f'{prefix}{name} {"" if is_flag or value in ("", ()) else value}'
        text += f' ({"a flag" if is_flag else describe_type(hints[name])})'
        yield textwrap.indent(textwrap.fill(' '.join(text.split()), 74), indent)
      case ast.AnnAssign(ast.Name(name)), _:
        inner = getattr(values, name)
        yield f'\n{_about(inner)}'
        yield from _entries(type(inner), inner, f'{prefix}{name}.')
