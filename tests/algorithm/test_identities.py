"""Are the identities exact? What must hold whatever the gradients are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'wide': (6, 12), 'tall': (12, 6), 'stack': (2, 5, 7), 'bias': (4,)}
METHODS = {
  'greedylore': gl.GreedyLore(2, update_interval=4),
  'independent': gl.GreedyLore(2, 4, probes='independent'),
  'fixed': gl.FixedSubspace(2, update_interval=4),
  'random': gl.RandomSubspace(2, update_interval=4),
  'powersgd': gl.PowerSGD(2),
  'range finder': gl.RangeFinder(2),
  'half warm': gl.RangeFinder(2, warm=0.5),
  'past sketches': gl.PastSketches(2),
  'sketched basis': gl.GreedyLore(2, 4, basis_size=4),
  'tsr': gl.TSR(2, update_interval=4, oversampling=1),
  'tsr, bases': gl.TSR(2, update_interval=4, average='bases'),
  'top columns': gl.TopK(0.2, probes=2),
  'top entries': gl.TopK(0.2, indices='own'),
  'random entries': gl.RandomK(0.2),
  'count sketch': gl.CountSketch(density=0.1),
  'split columns': gl.SplitColumns(0.3, 4),
  'split columns, 4 bits': gl.SplitColumns(0.7, 4, gl.Quantize(4)),
  'chunks': gl.ChunkTopK(chunk=4, keep=5, bits=2, transform='dct'),
  'threshold': gl.ThresholdTopK(0.2, update_interval=4),
  '8 bits': gl.Quantize(8),
  '2 bits': gl.Quantize(2),
  'sign': gl.Sign(),
}
# The others are as much a matter of test_oracle, which is float64.
QUICK = 'greedylore', 'powersgd', 'tsr', 'top entries', 'chunks', '2 bits'
LINEAR = [name for name, method in METHODS.items() if method.linear]


@functools.cache
def compiled(method, n, **options):
  """A transformation and its simulated update, shared between tests."""
  options = {'start_step': 1, 'min_compression_rate': 0} | options
  tx = gl.compress_gradients(METHODS[method], workers.AXIS, **options)
  return tx, workers.simulated(tx, n)


def trajectory(update, state, n, steps, first=0):
  """The updates and errors of some steps on random gradients."""
  history = []
  for step in range(first, first + steps):
    grads = workers.random_grads(SHAPES, n, seed=step)
    before = state.error
    updates, state = update(grads, state)
    history.append((grads, before, updates, state.error))
  return history, state


@pytest.mark.parametrize(
  ('method', 'n'),
  [
    *((method, 4) for method in QUICK),
    ('count sketch', 3),
    *(
      pytest.param(method, n, marks=pytest.mark.slow)
      for method, n in [
        *((method, 4) for method in METHODS if method not in QUICK),
        *(('count sketch', n) for n in (1, 2, 5)),
        *(('split columns, 4 bits', n) for n in (1, 3)),
      ]
    ),
  ],
)
def test_gradients_plus_errors_are_conserved(method, n):
  tx, update = compiled(method, n)
  state = workers.fresh(tx, SHAPES, n)
  history, _ = trajectory(update, state, n, steps=8)
  for grads, before, updates, after in history:
    assert not jax.tree.leaves(after['bias'])
    workers.check_conserved(grads, before, updates, after)


@pytest.mark.parametrize('n', [1, 2, 8])
@pytest.mark.parametrize('method', ['greedylore', 'powersgd', 'count sketch'])
def test_a_run_resumes_exactly_with_another_number_of_workers(method, n):
  """4 workers, then n with the same mean gradients: the same updates.

  Two programs over eleven steps, so rounding errors add up.
  """
  tx, update_4 = compiled(method, 4)
  _, update_n = compiled(method, n)
  state = workers.fresh(tx, SHAPES, 4)
  _, state = trajectory(update_4, state, 4, steps=4)
  other = gl.expand(gl.collapse(state), n)
  assert other.error['wide'].shape == (n, 6, 12)
  for step in range(4, 11):
    grads = workers.random_grads(SHAPES, 8, seed=step)
    of = lambda k: {
      name: g.reshape(k, 8 // k, *g.shape[1:]).mean(1)
      for name, g in grads.items()
    }
    updates, state = update_4(of(4), state)
    others, other = update_n(of(n), other)
    for name in SHAPES:
      error = workers.relative(others[name], updates[name])
      assert error < workers.FLOAT32_FEEDBACK, f'{name}, step {step}'


@pytest.mark.parametrize('method', LINEAR)
def test_only_the_mean_of_the_errors_matters(method):
  """What the exactness for other numbers of workers rests on."""
  tx, update = compiled(method, 4)
  state = workers.fresh(tx, SHAPES, 4)
  _, state = trajectory(update, state, 4, steps=4)
  other = gl.expand(gl.collapse(state), 4)
  spread = np.std(state.error['wide'], axis=0).max()
  assert spread > 0.1, 'errors that differ, or nothing is tested'
  for step in range(4, 7):
    grads = workers.random_grads(SHAPES, 4, seed=step)
    updates, state = update(grads, state)
    others, other = update(grads, other)
    for name in SHAPES:
      error = workers.relative(others[name], updates[name])
      assert error < workers.FLOAT32_ROUNDING, f'{name}, step {step}'


def test_a_copy_of_one_workers_error_would_not_do():
  """The control: rank 0's error on everybody goes elsewhere at once."""
  tx, update = compiled('greedylore', 4)
  state = workers.fresh(tx, SHAPES, 4)
  _, state = trajectory(update, state, 4, steps=4)
  copied = workers.map_errors(lambda e: jnp.stack([e[0]] * 4), state)
  grads = workers.random_grads(SHAPES, 4, seed=4)
  right, _ = update(grads, state)
  wrong, _ = update(grads, copied)
  assert workers.relative(wrong['wide'], right['wide']) > 0.05


@pytest.mark.parametrize(
  'method',
  [
    gl.GreedyLore(6, update_interval=4),
    gl.CountSketch(density=1.0),
    gl.SplitColumns(1.0),
  ],
  ids=repr,
)
def test_a_method_that_sends_all_is_the_dense_mean(method):
  full = gl.compress_gradients(method, workers.AXIS, min_compression_rate=0)
  shapes = {'w': (6, 12)}
  update = workers.simulated(full, 2)
  state = workers.fresh(full, shapes, 2)
  for step in range(6):
    grads = workers.random_grads(shapes, 2, seed=step)
    updates, state = update(grads, state)
    error = workers.relative(updates['w'], grads['w'].mean(0))
    assert error < workers.FLOAT32_ROUNDING


def test_equal_workers_are_one_worker():
  tx, update_4 = compiled('greedylore', 4)
  _, update_1 = compiled('greedylore', 1)
  four = gl.expand(tx.init(workers.zeros(SHAPES)), 4)
  one = tx.init(workers.zeros(SHAPES))
  for step in range(8):
    grads = workers.random_grads(SHAPES, 1, seed=step)
    repeated = jax.tree.map(lambda g: np.repeat(g, 4, axis=0), grads)
    a, four = update_4(repeated, four)
    b, one = update_1(grads, one)
    for name in SHAPES:
      error = workers.relative(a[name], b[name])
      assert error < workers.FLOAT32_ROUNDING, f'{name}, step {step}'


def test_no_axis_is_one_worker():
  alone = gl.compress_gradients(
    METHODS['greedylore'], None, start_step=1, min_compression_rate=0
  )
  tx, update = compiled('greedylore', 1)
  state, other = (
    alone.init(workers.zeros(SHAPES)),
    tx.init(workers.zeros(SHAPES)),
  )
  step = jax.jit(alone.update)
  for i in range(6):
    grads = workers.random_grads(SHAPES, 1, seed=i)
    a, state = step(jax.tree.map(lambda g: g[0], grads), state)
    b, other = update(grads, other)
    for name in SHAPES:
      assert workers.relative(a[name], b[name]) < workers.FLOAT32_ROUNDING


def test_the_first_compressed_step_is_a_refresh_and_delivers_the_error():
  """Start 1, interval 4: dense steps are 0, 1, 5; the error is gone there."""
  tx, update = compiled('greedylore', 4)
  state = workers.fresh(tx, SHAPES, 4)
  history, _ = trajectory(update, state, 4, steps=7)
  empty = [not np.any(after['wide']) for *_, after in history]
  assert empty == [True, True, False, False, False, True, False]


def test_a_fixed_subspace_lets_errors_grow_and_the_greedy_choice_does_not():
  """Proposition 1's counterexample: a constant gradient of full rank."""
  grads = {'w': np.stack([np.eye(8, 16, dtype=np.float32)] * 2)}
  size = {}
  for name, method in {
    'fixed': gl.FixedSubspace(2, update_interval=10_000),
    'greedy': gl.GreedyLore(2, update_interval=10_000),
  }.items():
    tx = gl.compress_gradients(method, workers.AXIS)
    update = workers.simulated(tx, 2)
    state = gl.expand(tx.init({'w': jnp.zeros((8, 16))}), 2)
    for _ in range(101):
      _, state = update(grads, state)
    error = state.error['w'].mean(0)
    size[name] = float(jnp.linalg.norm(error) / np.linalg.norm(grads['w'][0]))
  # 6 of 8 directions are never sent: sqrt(6/8) of the gradient at each step.
  assert size['fixed'] == pytest.approx(100 * np.sqrt(6 / 8), rel=1e-4)
  assert size['greedy'] < 6


def test_low_precision_on_the_wire_goes_into_the_error():
  """bfloat16 factors: what is not sent is kept, to float32 rounding, for one
  worker (for more, the sum in bfloat16 rounds again)."""
  tx, update = compiled('greedylore', 1, factor_dtype=jnp.bfloat16)
  state = tx.init(workers.zeros(SHAPES))
  history, _ = trajectory(update, state, 1, steps=8)
  for grads, before, updates, after in history:
    workers.check_conserved(grads, before, updates, after)


def test_bfloat16_gradients_are_conserved_with_float32_errors():
  tx, update = compiled('greedylore', 1, error_dtype=jnp.float32)
  state = tx.init(workers.zeros(SHAPES, jnp.bfloat16))
  for step in range(6):
    grads = jax.tree.map(
      lambda g: jnp.asarray(g, jnp.bfloat16),
      workers.random_grads(SHAPES, 1, seed=step),
    )
    before = state.error['wide'][0]
    updates, state = update(grads, state)
    assert updates['wide'].dtype == jnp.bfloat16
    assert state.error['wide'].dtype == jnp.float32
    came = np.float32(grads['wide'][0]) + before
    went = np.float32(updates['wide']) + state.error['wide'][0]
    assert workers.relative(went, came) < workers.FLOAT32_ROUNDING


def test_errors_can_be_kept_in_bfloat16():
  tx, update = compiled('greedylore', 2, error_dtype=jnp.bfloat16)
  state = workers.fresh(tx, SHAPES, 2)
  history, state = trajectory(update, state, 2, steps=6)
  assert state.error['wide'].dtype == jnp.bfloat16
  grads, before, updates, after = history[-1]
  mean = lambda e: np.float32(e['wide']).mean(0)
  came = grads['wide'].mean(0) + mean(before)
  assert workers.relative(updates['wide'] + mean(after), came) < 2**-8


def test_without_error_feedback_nothing_is_kept():
  tx, update = compiled('greedylore', 2, error_feedback=False)
  state = workers.fresh(tx, SHAPES, 2)
  assert not jax.tree.leaves(state.error)
  _, state = trajectory(update, state, 2, steps=3)
  assert not jax.tree.leaves(state.error)
