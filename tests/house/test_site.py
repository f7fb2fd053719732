"""Is the site complete, do its programs run, and does it build?"""

import inspect
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import greedylore_jax as gl

ROOT = pathlib.Path(gl.__file__).parent.parent
DOCS = ROOT / 'docs'
PAGES = sorted(path.relative_to(ROOT) for path in DOCS.rglob('*.md'))
EXAMPLES = sorted((ROOT / 'examples').glob('*.py'))
# They start processes, or take longer than ten seconds.
SLOW = {'resume.py', 'two_processes.py', 'training.md'}
# A program, and what it prints if that follows.
BLOCK = re.compile(
  r'^```python\n(.*?)^```\n(?:\n+```text\n(.*?)^```$)?',
  re.MULTILINE | re.DOTALL,
)
# What a browser would fetch from elsewhere.
REMOTE = re.compile(
  r'<(?:script|img|iframe)[^>]*\ssrc=["\']?(?:https?:)?//[^>]*'
  r'|<link[^>]*\srel=["\']?(?:stylesheet|preconnect|icon)[^>]*'
  r'href=["\']?(?:https?:)?//[^>]*'
)


def blocks(path):
  """(program, output or '') of a page; included files are tested as such."""
  return BLOCK.findall((ROOT / path).read_text('utf-8'))


WITH_BLOCKS = [path for path in PAGES if blocks(path)]


def test_every_public_name_is_on_one_api_page():
  named = []
  for path in (DOCS / 'api').glob('*.md'):
    text = path.read_text('utf-8')
    named += re.findall(r'^::: greedylore_jax\.(\w+)$', text, re.MULTILINE)
  assert sorted(named) == sorted(gl.__all__), (
    'add missing names to a page of docs/api as `::: greedylore_jax.NAME`'
  )


def methods():
  """The public names of methods: compressors, and optimizers that send."""
  for name in gl.__all__:
    x = getattr(gl, name)
    is_compressor = inspect.isclass(x) and issubclass(x, gl.Compressor)
    if is_compressor and x is not gl.Compressor:
      yield name
  yield from ('lordo', 'tsr_adam', 'frugal', 'sketched_amsgrad')


@pytest.mark.parametrize('name', [*methods()])
def test_every_method_has_a_page(name):
  """Its heading names the method: `# Top-k (`TopK`)`."""
  for path in (DOCS / 'methods').glob('*.md'):
    heading, _, text = path.read_text('utf-8').partition('\n')
    if path.name != 'index.md' and f'`{name}`' in heading:
      index = (DOCS / 'methods/index.md').read_text('utf-8')
      assert f']({path.name})' in index, f'methods/index.md omits {path.name}'
      assert f'#greedylore_jax.{name})' in text, f'{path.name}: link its API'
      return
  pytest.fail(f'add docs/methods/NAME.md, with `{name}` in its heading')


def test_every_page_is_in_the_navigation():
  listed = re.findall(r'- (\S+\.md)', (ROOT / 'mkdocs.yml').read_text('utf-8'))
  pages = {path.relative_to('docs').as_posix() for path in PAGES}
  assert len(listed) == len(set(listed))
  assert pages <= set(listed), f'mkdocs.yml omits {pages - set(listed)}'
  outside = {'CHANGELOG.md', 'CONTRIBUTING.md', 'experiments/index.md'}
  assert set(listed) == pages | outside, f'no page: {set(listed) - pages}'


@pytest.mark.parametrize(
  'path',
  [
    pytest.param(path, marks=pytest.mark.slow if path.name in SLOW else ())
    for path in WITH_BLOCKS
  ],
  ids=str,
)
def test_programs_of_a_page_run(path, capsys):
  """The blocks of a page are one program; shown output is what it prints."""
  scope = {}
  for program, output in blocks(path):
    capsys.readouterr()
    exec(compile(program, str(path), 'exec'), scope)
    printed = capsys.readouterr().out
    if output:
      assert printed.rstrip() == output.rstrip()


def test_examples_are_short_and_on_a_page():
  assert EXAMPLES
  text = '\n'.join((ROOT / path).read_text('utf-8') for path in PAGES)
  for path in EXAMPLES:
    length = len(path.read_text('utf-8').splitlines())
    assert length <= 80, f'{path.name} has {length} lines, more than 80'
    shown = f'<!-- include examples/{path.name} -->' in text
    assert shown or f'examples/{path.name}' in text, f'no page has {path.name}'


def losses(printed):
  """The losses that an example prints, one in a line."""
  return [float(x) for x in re.findall(r'loss (\d+\.\d+)', printed)]


@pytest.mark.parametrize(
  'path', [x for x in EXAMPLES if x.name not in SLOW], ids=lambda x: x.stem
)
def test_example_learns(path, capsys):
  if path.name.startswith('equinox'):
    pytest.importorskip('equinox')
  runpy.run_path(str(path), run_name='__main__')
  first, *_, last = losses(capsys.readouterr().out)
  assert last < first


@pytest.mark.slow
@pytest.mark.parametrize('name', [x for x in sorted(SLOW) if x.endswith('.py')])
def test_slow_example_learns(name):
  done = subprocess.run(
    [sys.executable, ROOT / 'examples' / name],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
    timeout=240,
  )
  assert done.returncode == 0, done.stderr
  first, *_, last = losses(done.stdout)
  assert last < first


@pytest.mark.slow
def test_the_site_builds_strictly_and_without_a_network(tmp_path):
  pytest.importorskip('mkdocs', reason='`make docs` installs it')
  pytest.importorskip('mkdocstrings', reason='`make docs` installs it')
  nowhere = dict.fromkeys(
    ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'),
    'http://127.0.0.1:9',
  )
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', tmp_path],
    cwd=ROOT,
    env={**os.environ, **nowhere},
    capture_output=True,
    text=True,
    check=False,
    timeout=280,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  pages = sorted(tmp_path.rglob('*.html'))
  assert len(pages) > len(PAGES)
  for page in pages:
    found = REMOTE.search(page.read_text('utf-8'))
    assert not found, f'{page.relative_to(tmp_path)} loads {found[0]}'
