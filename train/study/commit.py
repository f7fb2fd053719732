"""The version of the code with which something was measured."""

import pathlib
import subprocess


def current() -> str | None:
  """The commit of this code, with '-dirty' if a Python file has changed.

  Returns:
    A tag or the abbreviated hash, as `git describe` prints it; None without git
    or outside a repository.
  """
  git = ('git', '-C', str(pathlib.Path(__file__).parents[2]))
  call = lambda *words: subprocess.run(
    [*git, *words], capture_output=True, text=True, check=False, timeout=60
  )
  try:
    described = call('describe', '--always', '--tags')
    changed = call('diff', '--quiet', 'HEAD', '--', '*.py').returncode
  except (OSError, subprocess.TimeoutExpired):
    return None
  if described.returncode:
    return None
  return described.stdout.strip() + ('-dirty' if changed else '')
