"""Is it the algorithm? Every step against NumPy in float64."""

import jax
import numpy as np
from optax.contrib import MuonDimensionNumbers
import oracle
import pytest
import workers

import greedylore_jax as gl
from greedylore_jax import _compress

STEPS, START, INTERVAL, RANK, SEED = 9, 2, 3, 3, 7

# name -> shape, dimension numbers, and the leaf as a list of plain matrices.
LEAVES = {
    'attention_out': ((2, 4, 10), MuonDimensionNumbers((0, 1), 2),
                      lambda x: [x.reshape(8, 10)]),
    'attention_query': ((10, 2, 4), MuonDimensionNumbers(0, (1, 2)),
                        lambda x: [x.reshape(10, 8)]),
    'conv': ((2, 2, 3, 8), MuonDimensionNumbers((0, 1, 2), 3),
             lambda x: [x.reshape(12, 8)]),
    'square': ((8, 8), MuonDimensionNumbers(0, 1), lambda x: [x]),
    'stacked': ((2, 6, 9), MuonDimensionNumbers(1, 2), list),
    'tall': ((12, 7), MuonDimensionNumbers(0, 1), lambda x: [x]),
    'vector': ((5,), None, None),
    'wide': ((7, 12), MuonDimensionNumbers(0, 1), lambda x: [x]),
}  # fmt: skip

METHODS = {
    'shared': gl.GreedyLore(RANK, INTERVAL, probes=2),
    'independent': gl.GreedyLore(RANK, INTERVAL, probes='independent'),
    'svd': gl.GreedyLore(RANK, INTERVAL, probes=2, decomposition='svd'),
    'fixed': gl.FixedSubspace(RANK, INTERVAL),
    'random': gl.RandomSubspace(RANK, INTERVAL),
    'powersgd': gl.PowerSGD(RANK, seed=SEED),
    'range': gl.RangeFinder(RANK),
}


def gradients(n, dtype):
  """Gradients of all steps, leaves [STEPS, n, *shape]: a common part, whose
  singular values lie well apart so that float32 can tell them, and noise."""
  rng = np.random.default_rng(SEED)

  def signal(shape, split):
    if split is None:
      return rng.normal(size=shape)
    mats = []
    for m in split(np.zeros(shape)):
      u, _, vt = np.linalg.svd(rng.normal(size=m.shape), full_matrices=False)
      mats.append(u * np.linspace(2, 1, min(m.shape)) @ vt)
    return np.stack(mats).reshape(shape)

  def leaf(shape, split):
    noise = 0.05 * rng.normal(size=(STEPS, n, *shape))
    return (signal(shape, split) + noise).astype(dtype)

  return {k: leaf(shape, split) for k, (shape, _, split) in LEAVES.items()}


def draws(method, leaf_index, step, k, a, b, dtype):
  """The random numbers that the compressor draws for a leaf in a step."""
  key = jax.random.fold_in(jax.random.key(SEED), step)
  key = _compress.leaf_key(key, leaf_index)
  if method == 'powersgd':
    return np.asarray(METHODS[method].init(k, a, b, dtype))
  if method == 'range':
    return np.asarray(jax.random.normal(key, (k, b, RANK), dtype))
  if method == 'random':
    return np.asarray(jax.random.uniform(key, (k, a)))
  shape = (k, a, b) if method == 'independent' else (k, b, 2)
  return np.asarray(jax.random.normal(key, shape, dtype))


def check(method, n, dtype, tolerance):
  tx = gl.compress_gradients(
      METHODS[method], workers.AXIS, start_step=START, min_compression_rate=0,
      weight_dimension_numbers={k: v[1] for k, v in LEAVES.items()}, seed=SEED,
  )  # fmt: skip
  grads = gradients(n, dtype)
  state = tx.init({k: v[0, 0] for k, v in grads.items()})
  state = gl.expand(state, n)
  update = workers.simulated(tx, n)
  oracles = {}
  for step in range(STEPS):
    of_step = {k: v[step] for k, v in grads.items()}
    updates, state = update(of_step, state)
    for index, (name, (_, _, split)) in enumerate(LEAVES.items()):
      got = np.asarray(updates[name])
      if split is None:
        assert workers.relative(got, of_step[name].mean(0)) < tolerance
        continue
      mats = [split(g) for g in of_step[name]]  # [worker][matrix]
      k, (a, b) = len(mats[0]), sorted(mats[0][0].shape)
      drawn = draws(method, index, step, k, a, b, dtype)
      for i, part in enumerate(split(got)):
        one = oracles.setdefault(
            (name, i), oracle.Oracle(RANK, INTERVAL, START, method)
        )
        want = one.step([m[i] for m in mats], drawn[i])
        error = workers.relative(part, want)
        assert error < tolerance, f'{name}[{i}], step {step}: {error:.1e}'


@pytest.mark.parametrize('n', [1, 2, 4])
def test_float32_follows_the_oracle(n):
  check('shared', n, np.float32, workers.FLOAT32_ROUNDING)


@pytest.mark.parametrize('method', METHODS)
def test_float64_follows_the_oracle(method):
  with jax.enable_x64(True):
    check(method, 2, np.float64, 1e-12)
