"""The two ways to a basis: eigenvectors of H H^T against the SVD of H.

`python -m benchmarks.decompositions [--repeats 5]` times both in turn on shapes
of LLaMA layers, one matrix at a time as in the library, and compares what they
give with float64: the energy that the leading directions capture.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.wire import linalg as _linalg

_SHAPES = ((128, 344), (256, 688), (512, 512), (512, 1376), (1024, 2736))
_METHODS = ('gram', 'svd')


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=5)
  repeats = parser.parse_args().repeats
  print(f'jax {jax.__version__} on {jax.devices()[0].device_kind}')
  print('| a x b | gram, ms | svd, ms | ratio | energy lost: gram | svd |')
  print('|---|---|---|---|---|---|')
  for a, b in _SHAPES:
    h = _decaying(a, b)
    seconds = {method: [] for method in _METHODS}
    for _ in range(repeats):
      for method in _METHODS:
        seconds[method].append(_seconds(method, h))
    gram, svd = (1e3 * float(np.median(seconds[m])) for m in _METHODS)
    lost = ' | '.join(f'{_energy_lost(m, h):.1e}' for m in _METHODS)
    print(f'| {a} x {b} | {gram:.1f} | {svd:.1f} | {svd / gram:.1f} | {lost} |')


def _decaying(a: int, b: int) -> jax.Array:
  """A matrix whose singular values fall from 1 to 1e-4, [1, a, b]."""
  rng = np.random.default_rng(0)
  u, _, vt = np.linalg.svd(rng.normal(size=(a, b)), full_matrices=False)
  return jnp.asarray((u * np.geomspace(1, 1e-4, a) @ vt)[None], jnp.float32)


@functools.cache
def _compiled(method: str):
  decompose = _linalg.left_singular_basis(method)
  return jax.jit(lambda h: jax.lax.map(decompose, h))


def _seconds(method: str, h: jax.Array) -> float:
  basis = _compiled(method)
  basis(h).block_until_ready()
  start = time.perf_counter()
  basis(h).block_until_ready()
  return time.perf_counter() - start


def _energy_lost(method: str, h: jax.Array, share: int = 4) -> float:
  """Share of the energy that the leading directions miss beyond the least.

  In float64; the leading ones are a / share of all.
  """
  matrix = np.asarray(h[0], np.float64)
  rank = matrix.shape[0] // share
  basis = np.asarray(_compiled(method)(h)[0], np.float64)[:, :rank]
  values = np.linalg.svd(matrix, compute_uv=False) ** 2
  captured = np.sum((basis.T @ matrix) ** 2)
  return float((values[:rank].sum() - captured) / values.sum())


if __name__ == '__main__':
  main()
