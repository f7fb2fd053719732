"""Reads configurations: FILE or FILE:VARIANT, never executing the file.

A file of configs/ is Python of the simplest kind: a docstring, imports (for
editors; they are not followed), one assignment of a `Config` made of sections
and literals, and possibly its variants:

    config = Config(steps=300, model=Model(width=128))
    variants = {
      '4m': dict(about='4.1M parameters', model=dict(width=256)),
      'short': dict(about='4m in 10 steps', like='4m', steps=10),
    }

A variant changes single keys of the configuration, or of the variant that
`like` names. The name `base` instead of `config` says that the file needs a
variant.
"""

import ast
import dataclasses
import difflib
import os
import pathlib
import textwrap
import typing
from typing import Any

from train.config import regular_files, schema
from train.config.exit_codes import UsageError
from train.config.section import Section, nearest

SECTIONS: dict[str, type[Section]] = {
  name: value
  for name, value in vars(schema).items()
  if isinstance(value, type) and issubclass(value, Section)
}
_FOLDER = pathlib.Path(__file__).parents[2] / 'configs'


class Entry(typing.NamedTuple):
  """A configuration with one line about it."""

  about: str
  config: schema.Config


def load(name: str) -> schema.Config:
  """The configuration of that name, FILE or FILE:VARIANT.

  Raises:
    UsageError: if there is none, or the file is not a configuration.
  """
  path, variant = _split(name)
  entries = read(path)
  if variant in entries:
    return entries[variant].config
  known = [x for x in entries if x]
  if not known:
    raise UsageError(f'{path} has no variants, got {variant!r}: leave it out')
  raise UsageError(
    f'expected {path}:VARIANT with one of {", ".join(known)}, got'
    f' {variant or "none"}{nearest(variant, known)}'
  )


def name_of(name: str) -> str:
  """A name for the folder of a run, unique among the files of configs/.

  Example:
    >>> name_of('/home/me/configs/tsr/glue.py:cola'), name_of('../mine.py')
    ('tsr/glue_cola', 'mine')
  """
  path, variant = _split(name)
  *folders, file = pathlib.Path(path).with_suffix('').parts
  below = folders[::-1].index('configs') if 'configs' in folders else 0
  file += f'_{variant}' if variant else ''
  return '/'.join([*folders[len(folders) - below :], file])


def catalogue() -> dict[str, str]:
  """All configurations of configs/, each with one line about it."""
  return {
    os.path.relpath(path) + (f':{variant}' if variant else ''): entry.about
    for path in sorted(_FOLDER.rglob('*.py'))
    for variant, entry in read(str(path)).items()
  }


def _near(path: str) -> str:
  """The files of configs/ whose names are nearest, or nothing."""
  files = sorted(_FOLDER.rglob('*.py'))
  stems = difflib.get_close_matches(
    pathlib.Path(path).stem, {x.stem: x for x in files}
  )
  names = [os.path.relpath(x) for x in files if x.stem in stems]
  if not names:
    return ''
  alike = lambda name: difflib.SequenceMatcher(None, name, path).ratio()
  nearest_names = sorted(names, key=alike, reverse=True)[:3]
  return f'; the nearest are {", ".join(nearest_names)}'


def read(path: str) -> dict[str, Entry]:
  """The variants of a file by name; '' is the file without a variant.

  Raises:
    UsageError: if it is missing, is more than that, or holds a wrong value.
  """
  try:
    regular_files.check(path)
    text = pathlib.Path(path).read_text(encoding='utf-8')
    return _entries(ast.parse(text, path), path)
  except FileNotFoundError as error:
    raise UsageError(f'{path}: {error.strerror}{_near(path)}') from None
  except OSError as error:
    raise UsageError(f'{path}: {error.strerror}') from None
  except (RecursionError, MemoryError):
    raise UsageError(
      f'{path}: not a configuration: expected literals, got an expression'
      ' that is nested too deeply'
    ) from None
  except (SyntaxError, ValueError) as error:
    raise UsageError(f'{path}: not a configuration: {error}') from None


def _split(name: str) -> tuple[str, str]:
  """FILE and VARIANT; a colon may be part of a folder's name."""
  path, colon, variant = name.rpartition(':')
  return (path, variant) if colon and '/' not in variant else (name, '')


def _entries(tree: ast.Module, path: str) -> dict[str, Entry]:
  expected = (
    f'{path}: a configuration is a docstring, imports, config = Config(...) (or'
    ' base = ..., if it needs a variant) and possibly variants = {...}'
  )
  found: dict[str, ast.expr] = {}
  for i, node in enumerate(tree.body):
    match node:
      case ast.Expr(ast.Constant(str())) if i == 0:
        pass
      case ast.Import() | ast.ImportFrom():
        pass
      case ast.Assign(
        [ast.Name('config' | 'base' | 'variants' as name)], value
      ) if name not in found:
        found[name] = value
      case _:
        raise UsageError(f'{expected}, line {node.lineno} is something else')
  roots = [found[x] for x in ('config', 'base') if x in found]
  start = _value(roots[0], path) if len(roots) == 1 else None
  if not isinstance(start, schema.Config):
    raise UsageError(f'{expected}, of which config or base is missing')
  about = (ast.get_docstring(tree) or '').partition('\n')[0]
  entries = {'': Entry(about, start)}
  match found.get('variants', ast.Dict([], [])):
    case ast.Dict(names, values):
      for name_node, value in zip(names, values, strict=True):
        _add_variant(entries, name_node, value, path)
    case other:
      raise UsageError(f'{expected}, line {other.lineno} is something else')
  if 'base' in found:
    del entries['']
  return entries


def _add_variant(
  entries: dict[str, Entry], key: ast.expr | None, node: ast.expr, path: str
) -> None:
  """Adds `'NAME': dict(about='...', like='OTHER', key=value, ...)`."""
  match key, node:
    case (
      ast.Constant(str(name)),
      ast.Call(
        ast.Name('dict'),
        [],
        [ast.keyword('about', ast.Constant(str(about))), *changes],
      ) as call,
    ) if name and name not in entries:
      like = ''
      match changes:
        case [ast.keyword('like', ast.Constant(str(like))), *changes]:
          pass
      if like in entries:
        call.keywords = changes
        config = _value(call, path, entries[like].config)
        entries[name] = Entry(about, config)
        return
  raise UsageError(
    f"{path}, line {node.lineno}: expected a new variant 'NAME': dict(about="
    "'...', key=value, ...), possibly with like='AN EARLIER ONE' after about"
  )


def _value(node: ast.expr, path: str, start: Any = None) -> Any:
  """The value of an expression: a literal, or a section.

  Args:
    node: the expression.
    path: of the file, for messages.
    start: the section of which dict(key=value) changes some keys.
  """
  try:
    match node:
      case ast.Call(ast.Name('dict'), [], words) if isinstance(start, Section):
        changes = _values(type(start), words, path, start)
        return dataclasses.replace(start, **changes)  # type: ignore[type-var]
      case ast.Call(ast.Name(name), [], words) if all(x.arg for x in words):
        if name not in SECTIONS:
          hint = nearest(name, [*SECTIONS])
          raise ValueError(f'there is no section {name!r}{hint}')
        return SECTIONS[name](**_values(SECTIONS[name], words, path))
    try:
      return ast.literal_eval(node)
    except (ValueError, TypeError):
      text = textwrap.shorten(ast.unparse(node), 60, placeholder=' ...')
      raise ValueError(
        f'expected a literal or a section with key=value, got {text}'
      ) from None
  except ValueError as error:
    raise UsageError(f'{path}, line {node.lineno}: {error}') from None


def _values(
  kind: type[Section], words: list[ast.keyword], path: str, start: Any = None
) -> dict[str, Any]:
  """The values of a section's keys."""
  known, values = [*typing.get_type_hints(kind)], {}
  for word in words:
    key = str(word.arg)
    if key not in known:
      raise ValueError(f'{kind.__name__} has no {key!r}{nearest(key, known)}')
    if key in values:
      raise ValueError(f'{kind.__name__} is given {key!r} twice')
    values[key] = _value(word.value, path, getattr(start, key, None))
  return values
