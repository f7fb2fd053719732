"""TSR-Adam: the algorithm, its bytes, and what its averaging loses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers
import pytest

import greedylore_jax as gl
import workers

SIZES = {
  '60M': (512, 1376, 8),
  '130M': (768, 2048, 12),
  '350M': (1024, 2736, 24),
  '1B': (2048, 5461, 24),
}
# The paper's table: rank, that of embeddings, interval, dense GB, average MB,
# largest step GiB, as printed. Ablations are without the dense column.
TABLE = [
  ('60M', 256, 64, 100, '0.167', '20.0', '0.098'),
  ('130M', 384, 96, 100, '0.438', '58.9', '0.312'),
  ('350M', 384, 128, 100, '1.34', '115.2', '0.786'),
  ('1B', 512, 256, 100, '5.09', '213.5', '1.996'),
  ('60M', 128, 64, 200, None, '8.4', '0.050'),
  ('130M', 256, 96, 50, None, '32.3', '0.203'),
  ('350M', 256, 128, 50, None, '62.6', '0.512'),
]


def llama(size, head=False):
  """The matrices of a LLaMA, its layers stacked, without its norms."""
  d, ffn, layers = SIZES[size]
  shapes = {
    'embedding': (32_000, d),
    'attention': (4 * layers, d, d),
    'feed_forward': (3 * layers, d, ffn),
  }
  if head:
    shapes['head'] = (d, 32_000)
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}


def plan(size, rank, embedding_rank, interval, *, head=False, **options):
  rules = [
    ('embedding', gl.TSR(embedding_rank, 2, **options)),
    ('', gl.TSR(rank, interval, **options)),
  ]
  matrix, stack = MuonDimensionNumbers(0, 1), MuonDimensionNumbers(1, 2)
  numbers = {'embedding': matrix, 'attention': stack, 'feed_forward': stack}
  return gl.plan(
    rules,
    llama(size, head),
    error_feedback=False,
    weight_dimension_numbers=numbers | ({'head': None} if head else {}),
  )


@pytest.mark.parametrize('row', TABLE, ids=lambda row: f'{row[0]}-{row[1]}')
def test_the_papers_byte_table_to_the_printed_digits(row):
  size, rank, embedding_rank, interval, dense, average, peak = row
  p = plan(size, rank, embedding_rank, interval, average='bases')
  digits = lambda text: len(text.split('.')[1])
  assert f'{p.bytes_per_step / 1e6:.{digits(average)}f}' == average
  assert f'{p.peak_bytes / 2**30:.{digits(peak)}f}' == peak
  if dense:
    assert f'{p.dense_bytes / 1e9:.{digits(dense)}f}' == dense


def test_what_the_table_leaves_out():
  """The head is dense there, and counts."""
  ratio = lambda p: p.dense_bytes / p.bytes_per_step
  small = plan('60M', 256, 64, 100, average='bases')
  assert ratio(small) == pytest.approx(8.3, abs=0.05)
  small = plan('60M', 256, 64, 100, average='bases', head=True)
  assert ratio(small) == pytest.approx(2.7, abs=0.05)


def test_what_others_send_at_60m_with_embeddings_and_head():
  """The ratios that EXPERIMENTS.md tells."""
  norms = jax.ShapeDtypeStruct((17 * 512,), jnp.float32)
  params = llama('60M', head=True) | {'norms': norms}
  dense_ends = [('embedding|head', gl.Dense()), ('', gl.GreedyLore(32))]
  for method, dtype, times in (
    (dense_ends, None, '1.68'),
    (gl.PowerSGD(48), None, '8.4'),
    (gl.PowerSGD(128), jnp.int8, '12.3'),
  ):
    p = gl.plan(method, params, num_workers=4, factor_dtype=dtype)
    digits = len(times.split('.')[1])
    assert f'{p.dense_bytes / p.bytes_per_step:.{digits}f}' == times


class Adam:
  """TSR-Adam of one matrix in NumPy; `bases` are handed in."""

  def __init__(self, rank, scale, rotate):
    self.m = self.v = np.zeros((rank, rank))
    self.u = self.w = None
    self.scale, self.rotate, self.count = scale, rotate, 0

  def step(self, grads, u, w, params, rate, decay):
    """W - rate (scale U D V^T + decay W), V being called w."""
    if self.rotate and self.u is not None and not np.array_equal(u, self.u):
      a, b = u.T @ self.u, w.T @ self.w
      self.m = a @ self.m @ b.T
      self.v = self._turned(b**2, self._turned(a**2, self.v).T).T
    self.u, self.w = u, w
    self.count += 1
    c = sum(u.T @ g @ w for g in grads) / len(grads)
    self.m = 0.9 * self.m + 0.1 * c
    self.v = 0.99 * self.v + 0.01 * c**2
    d = (self.m / (1 - 0.9**self.count)) / (
      np.sqrt(self.v / (1 - 0.99**self.count)) + 1e-6
    )
    return params - rate * (self.scale * u @ d @ w.T + decay * params)

  def _turned(self, shares, v):
    """Second moments; the mean of v for what is outside of the old basis."""
    return shares @ v + np.outer(1 - shares.sum(axis=1), v.mean(axis=0))


@pytest.mark.parametrize('rotate', [False, True])
def test_tsr_adam_follows_numpy(rotate):
  """The bases are those of the state, which test_oracle holds to the SVD."""
  shapes = {'embedding': (14, 6), 'query': (6, 9)}
  ranks = {'embedding': 2, 'query': 3}
  with jax.enable_x64(True):
    tx = gl.tsr_adam(
      0.1,
      3,
      workers.AXIS,
      embedding_rank=2,
      update_interval=4,
      scale=0.5,
      b2=0.99,
      eps=1e-6,
      weight_decay=0.2,
      rotate_moments=rotate,
      min_compression_rate=0,
    )
    params = jax.tree.map(
      lambda g: g[0].astype(np.float64), workers.random_grads(shapes, 1, seed=7)
    )
    state = tx.init(params)
    update = jax.jit(
      jax.vmap(
        tx.update,
        in_axes=(0, None, None),
        out_axes=None,
        axis_name=workers.AXIS,
      )
    )
    oracles = {k: Adam(r, 0.5, rotate) for k, r in ranks.items()}
    want = params
    for step in range(10):
      grads = jax.tree.map(
        np.float64, workers.random_grads(shapes, 3, seed=step)
      )
      updates, state = update(grads, state, params)
      params = jax.tree.map(lambda p, u: p + u, params, updates)
      memory = state[0].compress.compressor_state
      for name, one in oracles.items():
        u, w = (np.asarray(x[0]) for x in memory[name][:2])
        if shapes[name][0] > shapes[name][1]:
          u, w = w, u
        want = want | {name: one.step(grads[name], u, w, want[name], 0.1, 0.2)}
        error = workers.relative(params[name], want[name])
        assert error < 1e-10, f'{name}, step {step}'


def test_moments_are_of_the_size_of_the_cores():
  tx = gl.tsr_adam(0.1, 3, None, embedding_rank=2)
  params = {
    'embedding': jnp.ones((40, 8)),
    'w': jnp.ones((8, 12)),
    'gain': jnp.ones(8),
  }
  moments = tx.init(params)[0].adam
  shapes = jax.tree.map(jnp.shape, moments.nu)
  assert shapes == {'embedding': (1, 2, 2), 'w': (1, 3, 3), 'gain': (8,)}


def test_frozen_parameters_are_left_out():
  params = {
    'a': jnp.ones(8),
    'frozen': jnp.ones((8, 12)),
    'w': jnp.ones((8, 12)),
  }
  grads = jax.tree.map(lambda x: 2 * x, params)
  tx = gl.tsr_adam(0.1, 2, None, rotate_moments=True)
  labels = {'a': 'train', 'frozen': 'freeze', 'w': 'train'}
  parts = {'train': tx, 'freeze': optax.set_to_zero()}
  partly = optax.multi_transform(parts, labels)
  updates, _ = partly.update(grads, partly.init(params))
  others = {k: v for k, v in grads.items() if k != 'frozen'}
  alone, _ = tx.update(others, tx.init(others))
  assert not updates.pop('frozen').any()
  jax.tree.map(np.testing.assert_array_equal, updates, alone)


def test_ranks_are_refused_under_their_own_names():
  with pytest.raises(ValueError, match='embedding_rank must be at least 1'):
    gl.tsr_adam(0.1, 2, None, embedding_rank=0)


def test_a_step_that_is_not_finite_leaves_the_moments_alone():
  tx = gl.tsr_adam(0.1, 2, None, update_interval=3, min_compression_rate=0)
  params = {'w': jnp.ones((4, 6))}
  state = tx.init(params)
  good = {'w': jnp.arange(24.0).reshape(4, 6)}
  update = jax.jit(tx.update)
  _, state = update(good, state, params)
  updates, new = update({'w': good['w'].at[0, 0].set(jnp.nan)}, state, params)
  assert np.isnan(updates['w']).all()
  for a, b in zip(
    jax.tree.leaves(new[0]), jax.tree.leaves(state[0]), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_what_is_sent_is_clipped_by_its_global_norm():
  shapes = {'w': (4, 6), 'gain': (5,)}
  grads = jax.tree.map(lambda g: g[0], workers.random_grads(shapes, 1, seed=0))
  for clip_norm, norm in ((0.5, 0.5), (1e3, optax.tree.norm(grads))):
    tx = gl.tsr_adam(
      1.0, 4, None, clip_norm=clip_norm, b1=0.9, min_compression_rate=0
    )
    _, state = tx.update(grads, tx.init(grads))
    # All directions are sent, so the cores have the norm of the gradients.
    first = optax.tree.norm(state[0].adam.mu) / 0.1
    np.testing.assert_allclose(first, norm, rtol=1e-5)


def captured(average, noise, n=8):
  """Energy that a refresh delivers, over that of the best 8 directions."""
  rng = np.random.default_rng(0)
  u, v = (np.linalg.qr(rng.normal(size=(s, 64)))[0] for s in (64, 160))
  signal = u * np.exp(-np.arange(64) / 8) @ v.T
  rest = rng.normal(size=(n, 64, 160)) / np.sqrt(64 * 160)
  g = np.float32(signal + noise * np.linalg.norm(signal) * rest)
  tx = gl.compress_gradients(
    gl.TSR(8, average=average), workers.AXIS, error_feedback=False
  )
  state = tx.init({'w': jnp.zeros((64, 160))})
  updates, _ = jax.jit(
    jax.vmap(
      tx.update, in_axes=(0, None), out_axes=None, axis_name=workers.AXIS
    )
  )({'w': g}, state)
  mean = g.mean(0)
  best = np.sum(np.linalg.svd(mean, compute_uv=False)[:8] ** 2)
  return float(np.sum(updates['w'] * mean) / best)


@pytest.mark.slow
def test_a_mean_of_bases_loses_energy_where_workers_differ():
  """Why the paper's averaging is not the default."""
  for noise in (0.1, 1.0, 3.0):
    assert captured('gradients', noise) > 0.95
  lost = [1 - captured('bases', noise) for noise in (0.1, 1.0, 3.0)]
  assert lost[0] < lost[1] < lost[2]
  assert lost[2] > 0.5


def test_steps_after_a_turn_of_the_bases_are_not_longer():
  """Directions that the old bases lack have no second moment of their own."""

  def lengths(rotate):
    tx = gl.tsr_adam(
      1.0, 4, None, update_interval=100, rotate_moments=rotate, b2=0.99
    )
    state, update = tx.init({'w': jnp.zeros((32, 32))}), jax.jit(tx.update)
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(32, 32)))[0] for _ in '01')
    found = []
    for step in range(104):
      j = 0 if step < 100 else 8
      core = rng.normal(size=(4, 4))
      g = left[:, j : j + 4] @ core @ right[:, j : j + 4].T
      updates, state = update({'w': jnp.float32(g)}, state)
      found.append(float(jnp.linalg.norm(updates['w'])))
    return max(found[100:]) / max(found[90:100])

  assert lengths(True) < 1.5, 'was 8 times as long as before'
  assert lengths(False) < 1.5


def test_moments_of_dense_leaves_decay_in_bfloat16():
  tx = gl.tsr_adam(0.1, 2, None, b2=0.99)
  params = {'w': jnp.ones((64, 64), 'bfloat16'), 'b': jnp.ones(64, 'bfloat16')}
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(101):
    grads = jax.tree.map(lambda x: x * (step == 0), params)
    updates, state = update(grads, state)
  assert updates['b'].dtype == jnp.bfloat16
  nu = state[0].adam.nu['b']
  np.testing.assert_allclose(nu, 0.01 * 0.99**100, rtol=1e-3)
