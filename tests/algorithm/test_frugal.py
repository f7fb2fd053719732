"""Is FRUGAL what its recursion says, in the memory that it promises?"""

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
RATE, DENSITY, INTERVAL, EPS, SCALE, DECAY, SEED = (
  0.1,
  0.3,
  3,
  1e-3,
  0.5,
  0.05,
  4,
)
P = jax.sharding.PartitionSpec


def frugal(axis_name=workers.AXIS, **options):
  options = {
    'density': DENSITY,
    'update_interval': INTERVAL,
    'min_compression_rate': 0,
    'seed': SEED,
    'eps': EPS,
    'b2': 0.9,
  } | options
  return gl.frugal(RATE, axis_name, **options)


class Adam:
  """Steps of Adam in float64."""

  def __init__(self, shape):
    self.m, self.v, self.count = np.zeros(shape), np.zeros(shape), 0

  def step(self, g):
    self.count += 1
    self.m = 0.9 * self.m + 0.1 * g
    self.v = 0.9 * self.v + 0.1 * g**2
    m, v = (x / (1 - 0.9**self.count) for x in (self.m, self.v))
    return m / (np.sqrt(v) + EPS)


class Matrix:
  """One matrix [a, b] of all workers, in float64."""

  def __init__(self, shape, n, feedback):
    self.errors, self.feedback = [np.zeros(shape)] * n, feedback
    self.columns = round(DENSITY * shape[1])
    self.compress, self.refresh = oracle.split_columns(self.columns)

  def step(self, grads, scores):
    """What is subtracted, without learning rate and decay; scores or None."""
    h = [g + e for g, e in zip(grads, self.errors, strict=True)]
    if scores is None:
      g, sent, self.order = self.compress(h, self.order, None)
    else:
      g, sent, self.order = self.refresh(h, None, scores)
      self.adam = Adam((len(g), self.columns))
    if self.feedback:
      self.errors = [x - s for x, s in zip(h, sent, strict=True)]
    step, chosen = SCALE * np.sign(g), self.order[: self.columns]
    step[:, chosen] = self.adam.step(g[:, chosen])
    return step


def drawn(step, name):
  """The scores of the columns of each matrix of a leaf, if they are chosen."""
  *stack, a, b = SHAPES[name]
  k = int(np.prod(stack))
  if step % INTERVAL:
    return [None] * k
  key = draws.leaf_key(SEED, step, [*SHAPES].index(name))
  return np.asarray(
    jax.random.uniform(jax.random.split(key)[0], (k, max(a, b)))
  )


@pytest.mark.parametrize(
  ('n', 'feedback'),
  [
    pytest.param(1, False, marks=pytest.mark.slow),
    pytest.param(3, False, marks=pytest.mark.slow),
    (3, True),
  ],
)
def test_float64_follows_the_oracle(n, feedback):
  with jax.enable_x64(True):
    tx = frugal(weight_decay=DECAY, error_feedback=feedback, sign_scale=SCALE)
    params = workers.zeros(SHAPES, jnp.float64)
    state = gl.expand(tx.init(params), n, exact=False)
    step = workers.optimized(tx)
    parts = {
      name: [Matrix(m.shape, n, feedback) for m in split(params[name])]
      for name in SHAPES
      if name != 'gain'
    }
    gain, want = Adam((5,)), {k: np.zeros(v) for k, v in SHAPES.items()}
    for i in range(2 * INTERVAL + 2):
      grads = workers.random_grads(SHAPES, n, seed=i)
      grads = jax.tree.map(np.float64, grads)
      params, state = step(params, state, grads)
      want['gain'] = want['gain'] - RATE * gain.step(grads['gain'].mean(0))
      for name, own in parts.items():
        mats = [split(g) for g in grads[name]]  # [worker][matrix]
        steps = np.stack(
          [
            one.step([m[j] for m in mats], scores)
            for j, (one, scores) in enumerate(
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


def test_with_all_columns_it_is_adam_of_the_dense_mean():
  """Until the moments begin anew."""
  tx = frugal(density=1.0, update_interval=100)
  dense = optax.chain(
    gl.average_gradients(workers.AXIS), optax.adam(RATE, b2=0.9, eps=EPS)
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


def test_moments_take_density_times_the_memory_of_adams():
  params = workers.zeros({'w': (64, 200), 'v': (400, 32), 'gain': (64,)})
  state, _, _ = frugal(axis_name=None, density=0.25).init(params)
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  of_adam = size({k: params[k] for k in 'vw'})
  for moment in state.columns.mu, state.columns.nu:
    assert size(moment) == of_adam / 4
  assert size(state.others.mu) == 64
  assert not jax.tree.leaves(state.compress.error)


@pytest.mark.slow
@pytest.mark.parametrize(
  'compressor',
  [
    pytest.param(gl.GreedyLore(2, INTERVAL), marks=pytest.mark.slow),
    gl.PowerSGD(2),
    pytest.param(gl.Quantize(4), marks=pytest.mark.slow),
    pytest.param(gl.TopK(0.2), marks=pytest.mark.slow),
  ],
  ids=repr,
)
def test_columns_travel_through_any_compressor(compressor):
  """With error feedback nothing is lost, whatever the split was."""
  n, shapes = 3, {'tall': (40, 7), 'wide': (6, 30)}
  tx = gl.compress_gradients(
    gl.SplitColumns(DENSITY, INTERVAL, compressor),
    workers.AXIS,
    min_compression_rate=0,
  )
  step, state = workers.simulated(tx, n), workers.fresh(tx, shapes, n)
  for i in range(INTERVAL + 2):
    grads = workers.random_grads(shapes, n, seed=i)
    before = state.error
    updates, state = step(grads, state)
    workers.check_conserved(grads, before, updates, state.error)


def test_a_column_without_a_gradient_does_not_move():
  """One bit cannot say zero, but the magnitude of the column can."""
  tx = frugal(axis_name=None)
  params = workers.zeros({'embedding': (40, 8)})
  grads = workers.random_grads({'embedding': (40, 8)}, 1, seed=0)
  grads = {'embedding': grads['embedding'][0]}
  grads['embedding'][::2] = 0  # Tokens that do not occur.
  state, update = tx.init(params), jax.jit(tx.update)
  for _ in range(4):
    updates, state = update(grads, state, params)
    moved = np.abs(updates['embedding'])
    assert not moved[::2].any()
    assert moved[1::2].all()


def test_a_run_without_error_feedback_resumes_on_any_number_of_workers():
  """There is no error, so states are equal on all workers."""
  tx = frugal()
  params = workers.zeros(SHAPES)
  mesh = workers.mesh_of(4)
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  saved = gl.collapse(state)
  placed = gl.place_state(
    saved, workers.mesh_of(2), axis_name=workers.AXIS, tx=tx, params=params
  )
  for x, y in zip(*map(jax.tree.leaves, (placed, state)), strict=True):
    np.testing.assert_array_equal(x, y)
  assert gl.plan(
    gl.SplitColumns(), params, error_feedback=False, min_compression_rate=0
  ).is_elastic


def test_a_step_that_is_not_finite_changes_nothing():
  """Also where other columns are due, which the next step then chooses."""
  tx = frugal()
  params = workers.zeros(SHAPES)
  state = gl.expand(tx.init(params), 3, exact=False)
  step = workers.optimized(tx)
  for i in range(INTERVAL + 1):
    grads = workers.random_grads(SHAPES, 3, seed=i)
    broken = jax.tree.map(np.copy, grads)
    broken['tall'][1, 3, 2] = np.nan
    after, new = step(params, state, broken)
    assert np.isnan(after['wide']).all()
    for x, y in zip(*map(jax.tree.leaves, (new[0], state[0])), strict=True):
      np.testing.assert_array_equal(x, y)
    params, state = step(params, state, grads)


@pytest.mark.slow
def test_a_mesh_sends_the_plan_and_several_devices_are_one_worker():
  tx = frugal(clip_norm=1.0, error_feedback=True)
  collectives, _ = optimizers.check_several_devices(tx, steps=INTERVAL + 1)
  sent = workers.sent_by_phase(collectives, n=2)
  assert sent.pop(None) == [('all-reduce', 'float32', 1)], 'the loss'
  plan = gl.plan(
    gl.SplitColumns(DENSITY, INTERVAL),
    workers.zeros(SHAPES),
    num_workers=2,
    min_compression_rate=0,
  )
  assert sent == plan.rounds


def test_16_bit_parameters_keep_their_moments_in_float32():
  tx = frugal(axis_name=None)
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
  assert new[0].columns.mu['wide'].dtype == jnp.float32


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'density': 0}, r'density must be in \(0, 1\], got density=0'),
    ({'update_interval': 0}, 'update_interval must be at least 1'),
    ({'compressor': gl.GreedyLore(2, 7)}, 'give it update_interval=3, got 7'),
  ],
)
def test_mistakes_get_answers(options, message):
  with pytest.raises(ValueError, match=message):
    frugal(**options)
