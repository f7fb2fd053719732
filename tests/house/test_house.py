"""Does the code keep to the house's rules? Layers, sizes, public names only."""

import ast
import pathlib
import re
import subprocess
import sys

import greedylore_jax

ROOT = pathlib.Path(greedylore_jax.__file__).parent.parent
SOURCES = sorted(
  path.relative_to(ROOT)
  for folder in (
    'greedylore_jax',
    'train',
    'tests',
    'configs',
    'examples',
    'benchmarks',
    'experiments',
    'tools',
  )
  for path in (ROOT / folder).rglob('*.py')
)


def test_imports_point_down():
  """The layers stand in pyproject.toml, under tool.importlinter."""
  lint = pathlib.Path(sys.executable).with_name('lint-imports')
  done = subprocess.run(
    [lint], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_the_library_needs_jax_and_optax_only():
  allowed = set(sys.stdlib_module_names) | {
    'greedylore_jax',
    'jax',
    'numpy',
    'optax',
  }
  for path in SOURCES:
    if path.parts[0] != 'greedylore_jax':
      continue
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding='utf-8'))):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module]
      for name in names:
        assert name.split('.')[0] in allowed, f'{path} imports {name}'
        assert 'greedylore_jax' in name or '._src' not in name, (
          f'{path} imports the private {name}'
        )


def test_the_top_of_each_package_is_small():
  """At most 4 modules in the library, whose users need none, and 5 commands."""
  for package, most in (('greedylore_jax', 4), ('train', 5)):
    modules = [
      path.name
      for path in SOURCES
      if path.parts[0] == package and len(path.parts) == 2
    ]
    assert len(modules) <= most, modules


def test_tests_import_no_test():
  imported = re.compile(r'^ *(from|import) test_', re.MULTILINE)
  for path in SOURCES:
    if path.parts[0] == 'tests':
      text = (ROOT / path).read_text(encoding='utf-8')
      assert not imported.search(text), f'{path} imports a test: use helpers/'


def test_functions_take_at_most_five_positional_arguments():
  """More are keyword-only, or one object."""
  for path in SOURCES:
    if path.parts[0] not in ('greedylore_jax', 'train', 'benchmarks'):
      continue
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding='utf-8'))):
      if not isinstance(node, ast.FunctionDef):
        continue
      names = [x.arg for x in (*node.args.posonlyargs, *node.args.args)]
      if names[:1] in (['self'], ['cls']):
        del names[0]
      assert len(names) <= 5, (
        f'{path}: {node.name} takes {len(names)} positional arguments'
      )


def test_tests_patch_no_private_names():
  """A test that needs to replace a part of the code gets an argument for it."""
  patch = re.compile(
    r"""(setattr\(|patch(\.object)?\()[^)]*['".]_[a-z]|^ *\w+\._[a-z]\w* = """,
    re.IGNORECASE | re.MULTILINE,
  )
  for path in SOURCES:
    if path.parts[0] == 'tests':
      found = patch.search((ROOT / path).read_text(encoding='utf-8'))
      assert not found, f'{path} patches a private name: {found[0]}'


def test_only_one_module_communicates():
  for path in SOURCES:
    if path.parts[0] == 'greedylore_jax' and path.name != 'transport.py':
      text = (ROOT / path).read_text(encoding='utf-8')
      for call in ('lax.psum', 'lax.pmean', 'lax.all_gather', 'lax.ppermute'):
        assert call not in text, f'{path} calls {call}; yield a message instead'
