"""Forty small texts, and the configuration that reads them."""

from train.config.schema import Data
from train.data import corpus

LINES = [f'line {i}: the value of {i * i} is not {i}é\n' for i in range(400)]


def write(folder):
  """Forty texts of different sizes, one of them below a subfolder."""
  (folder / 'sub').mkdir()
  for i in range(39):
    (folder / f'{i:02}.txt').write_text(f'{i}\n' + ''.join(LINES[: 5 + i]))
  (folder / 'sub' / 'deep.txt').write_text('deep\n' + ''.join(LINES[:20]))
  return folder


def read(*patterns):
  return corpus.read('files', [str(pattern) for pattern in patterns])


def section(folder, **changes):
  """The data section of a configuration for the texts in a folder."""
  values = {
    'source': 'files',
    'files': (str(folder / '**' / '*.txt'),),
    'sequence_length': 32,
    'eval_fraction': 0.1,
  }
  return Data(**(values | changes))
