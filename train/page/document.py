"""A self-contained HTML page: style and charts are inside, nothing is loaded.

Text is escaped by construction: only `element` makes markup.
"""

from collections.abc import Iterable, Mapping, Sequence
import html
import json
import pathlib
import re
from typing import Any
from urllib import parse

_STYLE = pathlib.Path(__file__).with_name('style.css')
_VOID = {'meta', 'path', 'line', 'circle'}
# Control characters, and bytes of file names that are not UTF-8.
_NOT_TEXT = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
_NUMBER = re.compile(r'([-+]?[\d.,]+(e[-+]?\d+)?[%x]?|nan)?')


class Html(str):
  """Markup; any other string is text."""

  __slots__ = ()


def element(tag: str, *content: Any, **attributes: Any) -> Html:
  """An element of HTML or SVG.

  Content is text, unless it is `Html`; sequences are joined, and None is
  nothing. Attributes are written as `class_='wide'` and `stroke_width=2`; one
  that is None is left out.

  Example:
    >>> element('p', 'a < b ', element('b', 'c'), class_='"')
    '<p class="&quot;">a &lt; b <b>c</b></p>'
  """
  words = ''.join(
    f' {name.rstrip("_").replace("_", "-")}="{_escape(value)}"'
    for name, value in attributes.items()
    if value is not None
  )
  inside = _markup(content)
  if tag in _VOID and not inside:
    return Html(f'<{tag}{words}/>')
  return Html(f'<{tag}{words}>{inside}</{tag}>')


def _markup(content: Any) -> str:
  if content is None:
    return ''
  if isinstance(content, Html):
    return content
  if isinstance(content, Iterable) and not isinstance(content, str):
    return ''.join(map(_markup, content))
  return _escape(content)


def _escape(value: Any) -> str:
  """Text as markup; what no page may hold becomes the replacement sign."""
  return html.escape(_NOT_TEXT.sub('\ufffd', str(value)))


def page(title: str, subtitle: Iterable[str], sections: Iterable[Any]) -> str:
  """The whole file."""
  head = element(
    'head',
    element('meta', charset='utf-8'),
    element(
      'meta', name='viewport', content='width=device-width, initial-scale=1'
    ),
    element('title', title),
    element('style', Html(_STYLE.read_text(encoding='utf-8'))),
  )
  header = element(
    'header', element('h1', title), [element('p', x) for x in subtitle]
  )
  body = element('body', element('main', header, sections))
  return f'<!DOCTYPE html>\n{element("html", head, body, lang="en")}\n'


def section(title: str, *content: Any) -> Html:
  """A heading and what belongs to it."""
  return element('section', element('h2', title), content)


def panels(*charts: Any) -> Html:
  """Charts next to each other where there is room, else below each other."""
  return element('div', charts, class_='panels')


def tiles(numbers: Mapping[str, str]) -> Html:
  """Numbers with their names, large."""
  return element(
    'dl',
    [
      element('div', element('dt', name), element('dd', value))
      for name, value in numbers.items()
    ],
    class_='tiles',
  )


def note(*content: Any) -> Html:
  """A paragraph that explains."""
  return element('p', content, class_='note')


def preformatted(text: str) -> Html:
  """Text in columns, which scrolls sideways where there is no room."""
  return element('pre', text, tabindex=0)


def link(path: str, text: str) -> Html:
  """A link to a file, by its path from the page."""
  # Without './', 'a:b' would be a scheme.
  return element('a', text, href=f'./{parse.quote(path, safe="/=+:")}')


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
  """A table that scrolls within itself; **words** are bold, as in Markdown.

  Columns of numbers are aligned at the right.
  """
  cells = [[*map(_cell, row)] for row in rows]
  classes = [
    'number' if all(map(_is_number, column)) else None
    for column in zip(*cells, strict=True)
  ] or [None] * len(columns)
  line = lambda tag, row: element(
    'tr', [element(tag, x, class_=y) for x, y in zip(row, classes, strict=True)]
  )
  whole = element(
    'table',
    element('thead', line('th', columns)),
    element('tbody', [line('td', row) for row in cells]),
  )
  return element('div', whole, class_='scroll', tabindex=0)


def _cell(value: Any) -> Any:
  plain = str(value).strip('*')
  is_bold = not isinstance(value, Html) and value == f'**{plain}**'
  return element('strong', plain) if is_bold else value


def _is_number(cell: Any) -> bool:
  """Whether a cell begins with a number, or is empty."""
  words = re.sub('</?strong>', '', str(cell)).split(' ')
  return bool(_NUMBER.fullmatch(words[0])) and 'x' not in words


def bar(share: float, label: str, whole: float = 1.0) -> Html:
  """A bar in a cell: a share, within a longer and paler one of all."""
  width = lambda x: f'width: {100 * min(max(x, 0.0), 1.0):.2f}%'
  parts = [element('div', style=width(x)) for x in (whole, share)]
  return element('div', parts, class_='bar', title=label, role='img')


def configuration(values: Mapping[str, Any], usual: Mapping[str, Any]) -> Html:
  """Keys and values; those that differ from the usual ones come first."""
  rows = {key: json.dumps(value) for key, value in values.items()}
  changed = {k: x for k, x in rows.items() if x != json.dumps(usual.get(k))}
  defaults = {k: x for k, x in rows.items() if k not in changed}
  return Html(
    table(['key', 'value'], changed.items())
    + element(
      'details',
      element('summary', f'{len(defaults)} keys at their defaults'),
      table(['key', 'value'], defaults.items()),
    )
  )
