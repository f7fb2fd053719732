"""Is SketchedAMSGrad what its recursion says, and exact?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import draws
import greedylore_jax as gl
import optimizers
import oracle
import workers

SHAPES, split = optimizers.SHAPES, optimizers.split
RATE, DENSITY, COLUMNS, ROWS, EPS, DECAY, SEED = 0.1, 0.2, 1.5, 3, 1e-3, 0.05, 4
P = jax.sharding.PartitionSpec


def sketched(density=DENSITY, axis_name=workers.AXIS, **options):
  options = {
    'columns': COLUMNS,
    'rows': ROWS,
    'min_compression_rate': 0,
    'seed': SEED,
    'eps': EPS,
    'b2': 0.9,
  } | options
  return gl.sketched_amsgrad(RATE, density, axis_name, **options)


class Matrix:
  """One matrix [a, b] of all workers, in float64."""

  def __init__(self, shape, n, feedback=True):
    self.errors, self.feedback = [np.zeros(shape)] * n, feedback
    self.m, self.v, self.w, self.count = *np.zeros((3, *shape)), 0

  def step(self, grads, draw):
    """What is subtracted, without learning rate and decay."""
    size = grads[0].size
    kept = round(DENSITY * size)
    find = oracle.count_sketch(
      round(COLUMNS * kept), kept, np.sqrt(self.w) + EPS
    )
    h = [g + e for g, e in zip(grads, self.errors, strict=True)]
    g, sent, _ = find(h, None, draw)
    if self.feedback:
      self.errors = [x - s for x, s in zip(h, sent, strict=True)]
    return self.moments(g)

  def moments(self, g):
    self.count += 1
    self.m = 0.9 * self.m + 0.1 * g
    self.v = 0.9 * self.v + 0.1 * g**2
    hat = lambda x: x / (1 - 0.9**self.count)
    self.w = np.maximum(self.w, hat(self.v))
    return hat(self.m) / (np.sqrt(self.w) + EPS)


def drawn(step, name):
  """The hashes of each matrix of a leaf."""
  *stack, a, b = SHAPES[name]
  k, size = int(np.prod(stack)), a * b
  key = draws.leaf_key(SEED, step, [*SHAPES].index(name))
  width = round(COLUMNS * round(DENSITY * size))
  shifts, signs = draws.hashes(key, k, size, ROWS, width)
  return list(zip(shifts, signs, strict=True))


@pytest.mark.parametrize(
  ('n', 'feedback'),
  [
    pytest.param(1, True, marks=pytest.mark.slow),
    (3, True),
    pytest.param(3, False, marks=pytest.mark.slow),
  ],
)
def test_float64_follows_the_oracle(n, feedback):
  with jax.enable_x64(True):
    tx = sketched(weight_decay=DECAY, error_feedback=feedback)
    params = workers.zeros(SHAPES, jnp.float64)
    state = gl.expand(tx.init(params), n, exact=False)
    step = workers.optimized(tx)
    parts = {
      name: [Matrix(m.shape, n, feedback) for m in split(params[name])]
      for name in SHAPES
      if name != 'gain'
    }
    gain, want = Matrix((5,), n), {k: np.zeros(v) for k, v in SHAPES.items()}
    for i in range(8):
      grads = workers.random_grads(SHAPES, n, seed=i)
      grads = jax.tree.map(np.float64, grads)
      params, state = step(params, state, grads)
      want['gain'] = want['gain'] - RATE * gain.moments(grads['gain'].mean(0))
      for name, own in parts.items():
        mats = [split(g) for g in grads[name]]  # [worker][matrix]
        steps = np.stack(
          [
            one.step([m[j] for m in mats], draw)
            for j, (one, draw) in enumerate(
              zip(own, drawn(i, name), strict=True)
            )
          ]
        )
        if name == 'tall':
          steps = np.swapaxes(steps, 1, 2)
        moved = steps.reshape(SHAPES[name]) + DECAY * want[name]
        want[name] = want[name] - RATE * moved
      for name in SHAPES:
        error = workers.relative(params[name], want[name])
        assert error < 1e-11, f'{name}, step {i}: {error:.1e}'


def test_with_everything_kept_it_is_amsgrad_of_the_dense_mean():
  tx = sketched(density=1.0)
  dense = optax.chain(
    gl.average_gradients(workers.AXIS), optax.amsgrad(RATE, b2=0.9, eps=EPS)
  )
  params = others = workers.zeros(SHAPES)
  state = gl.expand(tx.init(params), 2, exact=False)
  other = gl.expand(dense.init(params), 2)
  step, plain = workers.optimized(tx), workers.optimized(dense)
  for i in range(5):
    grads = workers.random_grads(SHAPES, 2, seed=i)
    params, state = step(params, state, grads)
    others, other = plain(others, other, grads)
  for name in SHAPES:
    assert workers.relative(params[name], others[name]) < 1e-5


def test_entries_compete_by_their_steps():
  """Half of the columns have gradients that are 1,000 times smaller."""
  scale = np.where(np.arange(12) < 6, 1.0, 1e-3)
  sent = {}
  for name, tx in {
    'steps': sketched(density=0.1, axis_name=None, eps=1e-8, columns=20.0),
    'gradients': gl.compress_gradients(
      gl.CountSketch(rows=ROWS, columns=20.0, density=0.1),
      None,
      min_compression_rate=0,
    ),
  }.items():
    params = workers.zeros({'w': (6, 12)})
    update, state = jax.jit(tx.update), tx.init(params)
    total = np.zeros((6, 12))
    for i in range(40):
      grads = workers.random_grads({'w': (6, 12)}, 1, seed=i)['w'][0] * scale
      _, state = update({'w': np.float32(grads)}, state, params)
      total += np.asarray(optax.tree.get(state, 'error')['w'][0]) == 0
    sent[name] = total[:, 6:].sum() / total.sum()
  assert sent['gradients'] < 0.1
  assert 0.3 < sent['steps'] < 0.7


@pytest.mark.slow
def test_a_run_resumes_exactly_on_another_number_of_workers():
  """The mean of the errors is all that matters."""
  with jax.enable_x64(True):
    tx = sketched()
    step = workers.optimized(tx)
    grads_of = lambda i: jax.tree.map(
      np.float64, workers.random_grads(SHAPES, 4, seed=i)
    )
    params = workers.zeros(SHAPES, jnp.float64)
    state = gl.expand(tx.init(params), 4)
    for i in range(3):
      params, state = step(params, state, grads_of(i))
    assert np.std(state[0].compress.error['wide'], axis=0).max() > 0.1
    others, other = params, gl.expand(gl.collapse(state), 2)
    for i in range(3, 7):
      grads = grads_of(i)
      halves = jax.tree.map(
        lambda g: g.reshape(2, 2, *g.shape[1:]).mean(1), grads
      )
      params, state = step(params, state, grads)
      others, other = step(others, other, halves)
    for name in SHAPES:
      assert workers.relative(others[name], params[name]) < 1e-12


def test_a_step_that_is_not_finite_changes_nothing():
  tx = sketched()
  params = workers.zeros(SHAPES)
  state = gl.expand(tx.init(params), 3)
  step = workers.optimized(tx)
  params, state = step(params, state, workers.random_grads(SHAPES, 3, seed=0))
  grads = workers.random_grads(SHAPES, 3, seed=1)
  grads['tall'][1, 3, 2] = np.nan
  broken, new = step(params, state, grads)
  assert np.isnan(broken['wide']).all()
  for x, y in zip(*map(jax.tree.leaves, (new[0], state[0])), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_mesh_sends_the_plan_and_several_devices_are_one_worker():
  tx = sketched(clip_norm=1.0)
  collectives, state = optimizers.check_several_devices(tx, steps=4)
  moments = state[0].moments
  assert moments.nu_max['wide'].sharding.spec == P('fsdp')
  # XLA packs the loss together with a message of the only phase.
  sent = sum(c.bytes for c in collectives) - 4
  plan = gl.plan(
    gl.CountSketch(rows=ROWS, columns=COLUMNS, density=DENSITY),
    workers.zeros(SHAPES),
    num_workers=2,
    min_compression_rate=0,
  )
  assert sent == plan.bytes_in('compress')


@pytest.mark.slow
def test_pmap_takes_the_same_steps():
  tx, n = sketched(), 2
  params = workers.zeros(SHAPES)
  state = tx.init(params)
  copies = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * n), tree)
  one = lambda p, s, g: tx.update(g, s, p)
  by_pmap = jax.pmap(one, axis_name=workers.AXIS, devices=jax.devices()[:n])
  many = copies(params), copies(state)
  expanded, step = gl.expand(state, n), workers.optimized(tx)
  for i in range(3):
    grads = workers.random_grads(SHAPES, n, seed=i)
    updates, held = by_pmap(*many, grads)
    many = jax.tree.map(jnp.add, many[0], updates), held
    params, expanded = step(params, expanded, grads)
  for name in SHAPES:
    np.testing.assert_array_equal(many[0][name][0], many[0][name][1])
    error = workers.relative(many[0][name][0], params[name])
    assert error < workers.FLOAT32_FEEDBACK


def test_16_bit_parameters_keep_their_moments_in_float32():
  tx = sketched(axis_name=None)
  params = workers.zeros(SHAPES, jnp.bfloat16)
  state = tx.init(params)
  grads = jax.tree.map(
    lambda g: jnp.asarray(g[0], jnp.bfloat16),
    workers.random_grads(SHAPES, 1, seed=0),
  )
  updates, new = jax.jit(tx.update)(grads, state, params)
  assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype('bfloat16')}
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  assert dtypes(new) == dtypes(state)
  assert new[0].moments.nu_max['wide'].dtype == jnp.float32


def test_dense_leaves_may_be_sent_in_few_bits():
  params = {'w': jnp.ones((64, 64)), 'b': jnp.ones(512)}
  tx = gl.sketched_amsgrad(1e-3, 0.02, None, dense_dtype='int8')
  updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates))
