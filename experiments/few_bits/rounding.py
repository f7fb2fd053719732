"""Relative squared errors of one rounding to few bits.

`python -m experiments.few_bits.rounding` prints the table of README.md: chunks
of 64 random numbers, as they are and rotated, with the levels of the library
and with those that it had before.
"""

import sys

import numpy as np

from train.study import tables

_CHUNKS, _SIZE = 4000, 64


def main() -> int:
  """Prints the table; returns the exit code."""
  rng = np.random.default_rng(0)
  shape = _CHUNKS, _SIZE
  numbers = {
    'normal': rng.normal(size=shape),
    'Laplace': rng.laplace(size=shape),
    "Student's t, 4 degrees of freedom": rng.standard_t(4, size=shape),
  }
  rows = []
  for name, x in numbers.items():
    rotated = x @ _rotation()
    errors = (
      _error(rotated, _nearest(rotated)),
      _error(x, _nearest(x)),
      _error(rotated, _four_levels(rotated)),
      _error(x, _four_levels(x)),
      _error(x, _four_levels_before(x)),
    )
    rows.append([name, *(f'{e:.3f}' for e in errors)])
  columns = (
    'numbers',
    '4 bits',
    '4 bits, not rotated',
    '2 bits',
    '2 bits, not rotated',
    '2 bits before',
  )
  print(tables.table(columns, rows))
  return 0


def _rotation() -> np.ndarray:
  """(-1)^(bits that i and j share), and the sign of a row by i^2 mod 61."""
  i, j = np.mgrid[:_SIZE, :_SIZE]
  return (-1.0) ** (np.bitwise_count(i & j) + i**2 % 61) / _SIZE**0.5


def _nearest(x: np.ndarray) -> np.ndarray:
  """15 levels up to the largest magnitude of a chunk."""
  t = np.abs(x).max(axis=1, keepdims=True) / 7
  return t * np.round(x / t)


def _four_levels(x: np.ndarray) -> np.ndarray:
  """Levels for normal numbers, times what fits best."""
  levels = _four(x, 1.25 * np.abs(x).mean(axis=1, keepdims=True))
  fit = (levels * x).sum(axis=1, keepdims=True)
  return levels * fit / (levels**2).sum(axis=1, keepdims=True)


def _four_levels_before(x: np.ndarray) -> np.ndarray:
  """The mean magnitude as the unit."""
  t = np.abs(x).mean(axis=1, keepdims=True)
  return t * _four(x, t)


def _four(x: np.ndarray, t: np.ndarray) -> np.ndarray:
  """The nearest of +-1/2 and +-3/2, in units of t."""
  return np.clip(np.floor(x / t), -2, 1) + 0.5


def _error(x: np.ndarray, rounded: np.ndarray) -> float:
  return float(((x - rounded) ** 2).sum() / (x**2).sum())


if __name__ == '__main__':
  sys.exit(main())
