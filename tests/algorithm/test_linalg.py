"""Bases that stay orthonormal and finite, and choices that are reproducible."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedylore_jax._src.wire import linalg
import workers

A, B = 12, 20


def matrices():
  """Every kind of matrix that gives trouble, by name."""
  rng = np.random.default_rng(0)
  random = rng.normal(size=(A, B))
  u, _, vt = np.linalg.svd(random, full_matrices=False)
  return {
    'random': random,
    'zero': np.zeros((A, B)),
    'rank one': np.outer(rng.normal(size=A), rng.normal(size=B)),
    'repeated singular values': u @ vt,
    'half rank': u * (np.arange(A) < A // 2) @ vt,
    'tiny': random * 1e-30,
    'huge': random * 1e30,
    'graded': u * 10.0 ** -np.arange(A) @ vt,
    'one entry': np.eye(1, A * B).reshape(A, B),
  }


@pytest.mark.parametrize('decomposition', ['gram', 'svd'])
def test_every_basis_is_finite_and_orthonormal(decomposition):
  h = jnp.asarray(np.stack(list(matrices().values())), jnp.float32)
  decompose = linalg.left_singular_basis(decomposition)
  basis = jax.jit(lambda h: jax.lax.map(decompose, h))(h)
  gram = basis.mT @ basis
  error = jnp.abs(gram - jnp.eye(A)[None]).max(axis=(1, 2))
  for name, value in zip(matrices(), error, strict=True):
    assert value < workers.FLOAT32_ROUNDING, f'{name}: {value:.1e}'


@pytest.mark.parametrize(
  'orthonormal', [linalg.orthonormal, linalg.orthonormal_by_reflections]
)
def test_every_sketch_has_orthonormal_columns_that_span_it(orthonormal):
  h = jnp.asarray(np.stack(list(matrices().values())), jnp.float32)
  y = h[:, :, :4]
  p = jax.jit(lambda y: jax.lax.map(orthonormal, y))(y)
  error = jnp.abs(p.mT @ p - jnp.eye(4)[None]).max(axis=(1, 2))
  missed = y - p @ (p.mT @ y)
  for i, name in enumerate(matrices()):
    assert error[i] < workers.FLOAT32_ROUNDING, f'{name}: {error[i]:.1e}'
    assert workers.relative(y[i] - missed[i], y[i]) < workers.FLOAT32_ROUNDING


@pytest.mark.parametrize('decomposition', ['gram', 'svd'])
def test_bases_are_ordered_and_signs_are_fixed(decomposition):
  h = jnp.asarray(matrices()['random'], jnp.float32)
  basis = linalg.left_singular_basis(decomposition)(h)
  energies = jnp.sum((basis.T @ h) ** 2, axis=1)
  assert (jnp.diff(energies) < 0).all()
  largest = jnp.argmax(jnp.abs(basis), axis=0)
  assert (basis[largest, jnp.arange(A)] > 0).all()
  flipped = linalg.left_singular_basis(decomposition)(-h)
  assert workers.relative(flipped, basis) < workers.FLOAT32_ROUNDING


def test_both_decompositions_span_the_same_leading_space():
  h = jnp.asarray(matrices()['graded'], jnp.float32)
  gram = linalg.left_singular_basis('gram')(h)
  svd = linalg.left_singular_basis('svd')(h)
  # Singular values 1, .1 and .01, whose squares float32 tells apart easily.
  overlap = jnp.abs(jnp.sum(gram * svd, axis=0))[:3]
  np.testing.assert_allclose(overlap, 1, atol=1e-4)


def test_of_equal_scores_the_lower_index_wins():
  basis = jnp.eye(4)[None]
  scores = jnp.array([[1.0, 2.0, 2.0, 1.0]])
  columns = jax.lax.map(linalg.largest(3), scores)
  chosen = linalg.take_columns(basis, columns)[0]
  np.testing.assert_array_equal(jnp.argmax(chosen, axis=0), [1, 2, 0])


def test_a_refresh_next_to_an_independent_collective_does_not_hang():
  """The program that hangs with a batched decomposition, run with a limit."""
  program = """
      import os
      os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'
      import jax, jax.numpy as jnp, numpy as np
      from greedylore_jax._src.wire import linalg
      P = jax.sharding.PartitionSpec
      mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))

      @jax.jit
      @jax.shard_map(mesh=mesh, in_specs=P('data'), out_specs=(P(), P()))
      def step(x):
        h = jax.lax.pmean(x[0], 'data')
        basis = jax.lax.map(linalg.left_singular_basis('gram'), h)
        loss = jax.lax.pmean(jnp.sum(jnp.sin(x)), 'data')
        return basis, loss

      x = np.random.default_rng(0).normal(size=(4, 12, 96, 96))
      for _ in range(20):
        jax.block_until_ready(step(x.astype(np.float32)))
      print('done')
  """
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(program)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert 'done' in done.stdout, done.stderr[-2000:]
