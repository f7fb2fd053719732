"""Does the code keep to the house's rules? Layers, sizes, public names only."""

import ast
import pathlib
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


def test_only_one_module_communicates():
  for path in SOURCES:
    if path.parts[0] == 'greedylore_jax' and path.name != 'transport.py':
      text = (ROOT / path).read_text(encoding='utf-8')
      for call in ('lax.psum', 'lax.pmean', 'lax.all_gather', 'lax.ppermute'):
        assert call not in text, f'{path} calls {call}; yield a message instead'
