"""Does the prose hold? Examples in docstrings and in the README run."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import sys

import pytest

import greedylore_jax
import train

ROOT = pathlib.Path(greedylore_jax.__file__).parent.parent
PAGES = sorted(
  path.relative_to(ROOT)
  for pattern in ('*.md', 'docs/**/*.md', 'experiments/**/README.md')
  for path in ROOT.glob(pattern)
)
MODULES = sorted(
  module.name
  for package in (greedylore_jax, train)
  for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.')
  if not module.name.endswith('__main__')
)
BRITISH = re.compile(
  r'\w*[zlntm]is(?:e[ds]?|ing|ations?)\b|\w*(?:avi|col|fav|hb|hon|lab)our\w*'
  r'|\b(?:label|cancel|travel|model)l(?:ed|ing)\b|\bcentres?\b',
  re.IGNORECASE,
)
ALSO_AMERICAN = re.compile(r'promis|premis|rise')


@pytest.mark.parametrize('name', MODULES)
def test_examples_in_docstrings(name):
  module = importlib.import_module(name)
  assert module.__doc__, f'{name} has no docstring'
  assert doctest.testmod(module).failed == 0


def test_python_in_the_readme_runs(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'argv', ['readme', str(tmp_path / 'saved')])
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert blocks, 'README.md shows no Python'
  scope = {}
  for block in blocks:
    exec(compile(block, 'README.md', 'exec'), scope)


def linked(path):
  """The files to which a Markdown file links."""
  targets = re.findall(r'\]\((?!https?:)([^)#]+)', path.read_text('utf-8'))
  return {(path.parent / target).resolve() for target in targets}


@pytest.mark.parametrize('path', PAGES, ids=str)
def test_links_lead_to_files(path):
  missing = [str(x) for x in linked(ROOT / path) if not x.exists()]
  assert not missing, f'{path} links to {missing}'


def test_every_study_is_in_the_index():
  index = linked(ROOT / 'EXPERIMENTS.md')
  studies = {*(ROOT / 'experiments').glob('*/README.md')}
  assert studies
  assert not studies - index, 'EXPERIMENTS.md does not list these'
  explained = set().union(*map(linked, studies)) | studies
  for results in (ROOT / 'experiments').glob('*/results.jsonl'):
    shown = {results.with_name(x) for x in ('README.md', 'compare.png')}
    assert shown & explained, f'no README explains {results}'


def test_words_are_spelled_in_the_american_way():
  shown = [x for x in ROOT.iterdir() if not x.name.startswith('.')]
  found = {}
  for path in [*shown, *(y for x in shown for y in x.rglob('*'))]:
    if path.suffix in ('.md', '.py', '.toml') and path.name != 'test_prose.py':
      words = {x.group() for x in BRITISH.finditer(path.read_text('utf-8'))}
      if words := {x for x in words if not ALSO_AMERICAN.search(x)}:
        found[str(path.relative_to(ROOT))] = words
  assert not found, 'spell these in the American way, as the other pages do'
