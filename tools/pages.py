"""Hooks of mkdocs: the parts of the site that are outside of docs/.

Pages link to files of the repository as they do in git. On the site, a file has
the same place, without `docs/`: every linked file becomes a part of the site,
Markdown as a page, and links are rewritten to match. A comment such as
`<!-- include examples/resume.py -->`, which GitHub does not show, becomes the
file.
"""

from collections.abc import Iterator
import pathlib
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
START = 'EXPERIMENTS.md', 'CHANGELOG.md', 'CONTRIBUTING.md'
# Code is matched so that nothing in it is taken for a link.
_LINK = re.compile(
  r'(?P<code>^```.*?^```$|`[^`\n]+`)'
  r'|(?P<text>\[(?:`[^`\n]*`|[^\]`])*\])'
  r'\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)',
  re.MULTILINE | re.DOTALL,
)
_INCLUDE = re.compile(r'^<!-- include (\S+) -->$', re.MULTILINE)


def on_config(config: Any) -> Any:
  """Adds the studies to the navigation, in the order of EXPERIMENTS.md."""
  for section in config['nav']:
    for entries in section.values():
      if entries == [site_path('EXPERIMENTS.md')]:
        found = _links((ROOT / 'EXPERIMENTS.md').read_text('utf-8'))
        entries += [
          {text.strip('[]'): target}
          for text, target in found
          if target.endswith('/README.md')
        ]
  return config


def on_files(files: Any, config: Any) -> Any:
  """Adds every file of the repository to which a page links."""
  pages = [
    path.relative_to(ROOT).as_posix() for path in (ROOT / 'docs').rglob('*.md')
  ]
  waiting, known = [*START, *pages], {*START, *pages}
  while waiting:
    path = waiting.pop()
    uri = site_path(path)
    if files.get_file_from_path(uri) is None:
      source = str(ROOT / path)
      files.append(File.generated(config, uri, abs_src_path=source))
    if path.endswith('.md'):
      for _, target in _links((ROOT / path).read_text('utf-8')):
        linked = repository_path(path, target)
        if linked not in known:
          known.add(linked)
          waiting.append(linked)
  return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
  """Points links to where the files are on the site, and includes files."""
  del kwargs
  own = pathlib.Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
  start = posixpath.dirname(site_path(own))

  def rewritten(found: re.Match[str]) -> str:
    if found['code']:
      return found[0]
    target = site_path(repository_path(own, found['target']))
    relative = posixpath.relpath(target, start or '.')
    return f'{found["text"]}({relative}{found["anchor"] or ""})'

  return _INCLUDE.sub(_included, _LINK.sub(rewritten, markdown))


def _included(found: re.Match[str]) -> str:
  """A file of the repository as a block of code."""
  text = (ROOT / found[1]).read_text('utf-8')
  language = 'python' if found[1].endswith('.py') else 'sh'
  return f'``` {{.{language} title="{found[1]}"}}\n{text}```'


def repository_path(page: str, target: str) -> str:
  """The file of the repository to which a page of it links."""
  path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
  if (ROOT / path).is_dir():
    path = f'{path}/README.md'
  if path == 'README.md':
    return 'docs/index.md'
  return path


def site_path(path: str) -> str:
  """Where a file of the repository is on the site."""
  if path == 'EXPERIMENTS.md':
    return 'experiments/index.md'
  return path.removeprefix('docs/')


def _links(markdown: str) -> Iterator[tuple[str, str]]:
  """(text, target) of the links to files."""
  for found in _LINK.finditer(markdown):
    if not found['code']:
      yield found['text'], found['target']
