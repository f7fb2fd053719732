"""Is it the algorithm? Every step against NumPy in float64."""

import math

import jax
import numpy as np
from optax.contrib import MuonDimensionNumbers
import pytest

import draws as draws_lib
import greedylore_jax as gl
import oracle
import workers

STEPS, START, INTERVAL, RANK, SEED = 9, 2, 3, 3, 7

# name -> shape, dimension numbers, and the leaf as a list of plain matrices.
LEAVES = {
  'attention_out': (
    (2, 4, 10),
    MuonDimensionNumbers((0, 1), 2),
    lambda x: [x.reshape(8, 10)],
  ),
  'attention_query': (
    (10, 2, 4),
    MuonDimensionNumbers(0, (1, 2)),
    lambda x: [x.reshape(10, 8)],
  ),
  'conv': (
    (2, 2, 3, 8),
    MuonDimensionNumbers((0, 1, 2), 3),
    lambda x: [x.reshape(12, 8)],
  ),
  'square': ((8, 8), MuonDimensionNumbers(0, 1), lambda x: [x]),
  'stacked': ((2, 6, 9), MuonDimensionNumbers(1, 2), list),
  'tall': ((12, 7), MuonDimensionNumbers(0, 1), lambda x: [x]),
  'vector': ((5,), None, None),
  'wide': ((7, 12), MuonDimensionNumbers(0, 1), lambda x: [x]),
}

SIZE = RANK + 2  # Of sketches.
DENSITY = 0.3
draw = jax.random.normal
# name -> method, the oracle's functions for a matrix of sides n, and what is
# drawn for [k, a, b]: from a key to the draws of either phase.
METHODS = {
  'shared': (
    gl.GreedyLore(RANK, INTERVAL, probes=2),
    lambda n: (oracle.greedylore(RANK), oracle.dense_refresh),
    lambda key, k, a, b: (draw(key, (k, b, 2)), None),
  ),
  'independent': (
    gl.GreedyLore(RANK, INTERVAL, probes='independent'),
    lambda n: (oracle.greedylore(RANK, True), oracle.dense_refresh),
    lambda key, k, a, b: (draw(key, (k, a, b)), None),
  ),
  'svd': (
    gl.GreedyLore(RANK, INTERVAL, probes=2, decomposition='svd'),
    lambda n: (oracle.greedylore(RANK), oracle.dense_refresh),
    lambda key, k, a, b: (draw(key, (k, b, 2)), None),
  ),
  'sketched basis': (
    gl.GreedyLore(RANK, INTERVAL, probes=2, basis_size=SIZE),
    lambda n: (oracle.greedylore(RANK), oracle.sketched_refresh),
    lambda key, k, a, b: (draw(key, (k, b, 2)), draw(key, (k, b, SIZE))),
  ),
  'fixed': (
    gl.FixedSubspace(RANK, INTERVAL),
    lambda n: (oracle.subspace(lambda _: range(RANK)), oracle.dense_refresh),
    lambda key, k, a, b: (None, None),
  ),
  'random': (
    gl.RandomSubspace(RANK, INTERVAL),
    lambda n: (
      oracle.subspace(lambda lots: oracle.best(lots, RANK)),
      oracle.dense_refresh,
    ),
    lambda key, k, a, b: (jax.random.uniform(key, (k, a)), None),
  ),
  'powersgd': (
    gl.PowerSGD(RANK, seed=SEED),
    lambda n: (oracle.range_finder(RANK, RANK),),
    lambda key, k, a, b: (columns(key, k, b, RANK), None),
  ),
  'range finder': (
    gl.RangeFinder(RANK),
    lambda n: (oracle.range_finder(RANK),),
    lambda key, k, a, b: (columns(key, k, b, 0), None),
  ),
  'half warm': (
    gl.RangeFinder(RANK, warm=0.6, seed=SEED),
    lambda n: (oracle.range_finder(RANK, 2),),
    lambda key, k, a, b: (columns(key, k, b, 2), None),
  ),
  'past sketches': (
    gl.PastSketches(RANK, decay=0.4, seed=SEED),
    lambda n: (oracle.past_sketches(RANK, 2, 0.4),),
    lambda key, k, a, b: (
      (draw(key, (k, RANK, 2 + a)), draw(jax.random.key(SEED), (k, RANK, b))),
      None,
    ),
  ),
  'tsr': (
    gl.TSR(RANK, INTERVAL, oversampling=2),
    lambda n: oracle.tsr(RANK, 1, 'gradients'),
    lambda key, k, a, b: (None, draw(key, (k, b, SIZE))),
  ),
  'tsr, bases': (
    gl.TSR(RANK, INTERVAL, 2, average='bases'),
    lambda n: oracle.tsr(RANK, 1, 'bases'),
    lambda key, k, a, b: (None, draw(key, (k, b, SIZE))),
  ),
  'top columns': (
    gl.TopK(DENSITY, probes=2),
    lambda n: (oracle.top_columns(round(DENSITY * n[1])),),
    lambda key, k, a, b: (draw(key, (k, a, 2)), None),
  ),
  'top entries': (
    gl.TopK(DENSITY, 'own'),
    lambda n: (
      oracle.entries(round(DENSITY * n[0] * n[1]), lambda h, _: np.abs(h)),
    ),
    lambda key, k, a, b: (None, None),
  ),
  'random entries': (
    gl.RandomK(DENSITY),
    lambda n: (
      oracle.entries(round(DENSITY * n[0] * n[1]), lambda _, lots: lots),
    ),
    lambda key, k, a, b: (jax.random.uniform(key, (k, a * b)), None),
  ),
  'count sketch': (
    gl.CountSketch(rows=3, columns=1.5, density=DENSITY),
    lambda n: (
      oracle.count_sketch(
        round(1.5 * round(DENSITY * n[0] * n[1])), round(DENSITY * n[0] * n[1])
      ),
    ),
    lambda key, k, a, b: (
      draws_lib.hashes(key, k, a * b, 3, round(1.5 * round(DENSITY * a * b))),
      None,
    ),
  ),
  'split columns': (
    gl.SplitColumns(DENSITY, INTERVAL),
    lambda n: oracle.split_columns(round(DENSITY * n[1])),
    lambda key, k, a, b: (
      None,
      jax.random.uniform(jax.random.split(key)[0], (k, b)),
    ),
  ),
  'chunks': (
    gl.ChunkTopK(chunk=5, keep=4),
    lambda n: (oracle.chunk_top_k(5, 4),),
    lambda key, k, a, b: (None, None),
  ),
  'frequencies, signs': (
    gl.ChunkTopK(chunk=5, keep=4, bits=1, transform='dct'),
    lambda n: (oracle.chunk_top_k(5, 4, 1, dct=True),),
    lambda key, k, a, b: (None, None),
  ),
  'chunks, 2 bits': (
    gl.ChunkTopK(chunk=9, keep=20, bits=2),
    lambda n: (oracle.chunk_top_k(9, 20, 2),),
    lambda key, k, a, b: (None, None),
  ),
  'chunks, 4 bits': (
    gl.ChunkTopK(chunk=9, keep=20, bits=4),
    lambda n: (oracle.chunk_top_k(9, 20, 4),),
    lambda key, k, a, b: (None, None),
  ),
  'threshold': (
    gl.ThresholdTopK(DENSITY, INTERVAL, slack=1.2),
    lambda n: oracle.threshold_top_k(
      round(DENSITY * n[0] * n[1]),
      math.ceil(1.2 * round(DENSITY * n[0] * n[1])),
    ),
    lambda key, k, a, b: (jax.random.uniform(key, (k,)), None),
  ),
  'sign': (
    gl.Sign(),
    lambda n: (oracle.signs,),
    lambda key, k, a, b: (None, None),
  ),
}


def columns(key, k, b, warm):
  """The fresh columns of a range finder, and the first of the warm ones."""
  first = jax.random.normal(jax.random.key(SEED), (k, b, warm))
  return draw(key, (k, b, RANK - warm)), first


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


def draws(method, leaf_index, step, k, a, b):
  """What the compressor draws for a leaf in a step, a dict per matrix."""
  key = draws_lib.leaf_key(SEED, step, leaf_index)
  drawn = METHODS[method][2](key, k, a, b)
  of = lambda i, tree: jax.tree.map(lambda x: np.asarray(x[i]), tree)
  return [
    {'compress': of(i, drawn[0]), 'refresh': of(i, drawn[1])} for i in range(k)
  ]


def check(method, n, dtype, tolerance, leaves):
  tx = gl.compress_gradients(
    METHODS[method][0],
    workers.AXIS,
    start_step=START,
    weight_dimension_numbers={k: LEAVES[k][1] for k in leaves},
    min_compression_rate=0,
    seed=SEED,
  )
  grads = {k: v for k, v in gradients(n, dtype).items() if k in leaves}
  state = tx.init({k: v[0, 0] for k, v in grads.items()})
  state = gl.expand(state, n, exact=False)
  update = workers.simulated(tx, n)
  oracles = {}
  for step in range(STEPS):
    of_step = {k: v[step] for k, v in grads.items()}
    updates, state = update(of_step, state)
    for index, name in enumerate(leaves):
      split = LEAVES[name][2]
      got = np.asarray(updates[name])
      if split is None:
        assert workers.relative(got, of_step[name].mean(0)) < tolerance
        continue
      mats = [split(g) for g in of_step[name]]  # [worker][matrix]
      k, (a, b) = len(mats[0]), sorted(mats[0][0].shape)
      drawn = draws(method, index, step, k, a, b)
      for i, part in enumerate(split(got)):
        interval = METHODS[method][0].update_interval
        functions = METHODS[method][1]((a, b))
        one = oracles.setdefault(
          (name, i), oracle.Oracle(interval, START, *functions)
        )
        want = one.step([m[i] for m in mats], drawn[i])
        error = workers.relative(part, want)
        assert error < tolerance, f'{name}[{i}], step {step}: {error:.1e}'


@pytest.mark.slow
@pytest.mark.parametrize('n', [1, 2, 4])
def test_float32_follows_the_oracle(n):
  check('shared', n, np.float32, workers.FLOAT32_ROUNDING, [*LEAVES])


@pytest.mark.parametrize('method', METHODS)
def test_float64_follows_the_oracle(method):
  with jax.enable_x64(True):
    # How a leaf becomes matrices is the same for all methods. Directions that
    # come from squares are less accurate.
    tolerance = 1e-11 if method == 'past sketches' else 1e-12
    check(method, 2, np.float64, tolerance, ['stacked', 'tall', 'wide'])
