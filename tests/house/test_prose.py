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
MODULES = sorted(
  module.name
  for package in (greedylore_jax, train)
  for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.')
  if not module.name.endswith('__main__')
)


@pytest.mark.parametrize('name', MODULES)
def test_examples_in_docstrings(name):
  module = importlib.import_module(name)
  assert module.__doc__, f'{name} has no docstring'
  assert doctest.testmod(module).failed == 0


def test_every_public_name_is_documented():
  for name in vars(greedylore_jax):
    value = getattr(greedylore_jax, name)
    if name.startswith('_') or not callable(value):
      continue
    assert value.__doc__, f'gl.{name} has no docstring'
    if value.__module__.startswith('greedylore_jax'):
      # A dataclass without a docstring gets its signature for one.
      assert not value.__doc__.startswith(f'{name}('), name


def test_python_in_the_readme_runs(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'argv', ['readme', str(tmp_path / 'saved')])
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert blocks, 'README.md shows no Python'
  scope = {}
  for block in blocks:
    exec(compile(block, 'README.md', 'exec'), scope)


def test_the_readme_names_files_that_exist():
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  for target in re.findall(r'\]\((?!https?:)([^)#]+)', text):
    assert (ROOT / target).exists(), f'README.md links to {target}'
