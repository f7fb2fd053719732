"""An extension of griffe: the library's docstrings as Markdown.

Formulas are indented by two spaces in the sources; Markdown needs four.
"""

import inspect
import re
from typing import Any

import griffe

_SECTION = re.compile(r'(Args|Attributes|Returns|Raises|Example|References):$')
# An asterisk that would begin emphasis: [N, *shape].
_STAR = re.compile(r'(?<=[\[ (])\*(?=\w)')


class Docstrings(griffe.Extension):
  """Rewrites each docstring once, before it is parsed."""

  def on_object(self, *, obj: Any, **kwargs: Any) -> None:
    """Called for every object that has been read."""
    del kwargs
    if obj.docstring:
      obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
  """The docstring with formulas as blocks of code."""
  lines, section = [], None
  for line in inspect.cleandoc(text).splitlines():
    if line and not line.startswith(' '):
      found = _SECTION.match(line)
      section = found[1] if found else None
    if line == 'Example:':
      line = 'Examples:'  # The name by which griffe knows it.
    elif line == 'References:':
      line = '**References:**'
    elif section == 'References':
      line = line.strip()
    elif section is None and line.startswith('  '):
      line = f'  {line}'
    if section != 'Example':
      parts = line.split('`')  # Every second one is code.
      parts[::2] = [_STAR.sub(r'\\*', part) for part in parts[::2]]
      line = '`'.join(parts)
    lines.append(line)
  return '\n'.join(lines)
