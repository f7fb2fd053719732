"""Two ways to a basis: eigenvectors of H H^T against the SVD of H.

`python -m benchmarks.compute.decompositions [--repeats 5]` times both in turns
on shapes of LLaMA layers, one matrix at a time as in the library, and compares
the energy that the leading directions capture with float64.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.wire import linalg
from train.study import tables

_SHAPES = ((128, 344), (256, 688), (512, 512), (512, 1376), (1024, 2736))
_METHODS = ('gram', 'svd')
_COLUMNS = 'a x b', 'gram, ms', 'svd, ms', 'ratio', 'energy lost: gram', 'svd'


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=5)
  repeats = parser.parse_args().repeats
  print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
  print(tables.head(*_COLUMNS))
  for a, b in _SHAPES:
    h = _decaying(a, b)
    turns = [[_seconds(m, h) for m in _METHODS] for _ in range(repeats)]
    gram, svd = 1e3 * np.median(turns, axis=0)
    times = f'{gram:.1f}', f'{svd:.1f}', f'{svd / gram:.1f}'
    lost = (f'{_energy_lost(m, h):.1e}' for m in _METHODS)
    print(tables.row(f'{a} x {b}', *times, *lost), flush=True)


def _decaying(a: int, b: int) -> jax.Array:
  """A matrix whose singular values fall from 1 to 1e-4, [1, a, b]."""
  rng = np.random.default_rng(0)
  u, _, vt = np.linalg.svd(rng.normal(size=(a, b)), full_matrices=False)
  return jnp.asarray((u * np.geomspace(1, 1e-4, a) @ vt)[None], jnp.float32)


@functools.cache
def _compiled(method: str):
  decompose = linalg.left_singular_basis(method)
  return jax.jit(lambda h: jax.lax.map(decompose, h))


def _seconds(method: str, h: jax.Array) -> float:
  basis = _compiled(method)
  basis(h).block_until_ready()
  start = time.perf_counter()
  basis(h).block_until_ready()
  return time.perf_counter() - start


def _energy_lost(method: str, h: jax.Array, share: int = 4) -> float:
  """The energy missed by the leading a / share directions, in float64.

  As a share of the whole, and beyond the least possible.
  """
  matrix = np.asarray(h[0], np.float64)
  rank = matrix.shape[0] // share
  basis = np.asarray(_compiled(method)(h)[0], np.float64)[:, :rank]
  values = np.linalg.svd(matrix, compute_uv=False) ** 2
  captured = np.sum((basis.T @ matrix) ** 2)
  return float((values[:rank].sum() - captured) / values.sum())


if __name__ == '__main__':
  main()
