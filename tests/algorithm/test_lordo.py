"""Is LoRDO what its recursion says, and exact?"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import local_steps
from local_steps import (
  batch_of,
  entry_computation,
  gradient,
  on_mesh,
  simulated,
)
import workers

SHAPES = {'gain': (4,), 'stack': (2, 5, 7), 'tall': (9, 6), 'wide': (5, 8)}
MATRICES = ('stack', 'tall', 'wide')
RANK, EVERY, ROUNDS = 2, 3, 4
RATE, WEIGHT, DECAY, CLIP, EPS = 0.1, 0.7, 0.05, 4.0, 1e-6
P = jax.sharding.PartitionSpec


def target(n, seed=0):
  """Every worker's own minimum."""
  return workers.random_grads(SHAPES, n, seed)


def lordo(rank=RANK, axis_name=workers.AXIS, **options):
  """With a second moment of short memory: 1 - 0.999 alone rounds by 6e-5."""
  options = {'every': EVERY, 'b2': 0.9, 'min_compression_rate': 0} | options
  return gl.lordo(RATE, rank, axis_name, **options)


def begin(tx, n, dtype=jnp.float32):
  params = workers.zeros(SHAPES, dtype)
  return params, gl.expand(tx.init(params), n, exact=False)


def trained(tx, n, steps, t, dtype=jnp.float32):
  params = workers.zeros(SHAPES, dtype)
  return local_steps.trained(tx, n, steps, t, params)


def low_rank(state):
  """The low-rank part of the inner state, of all workers."""
  return state.inner.tree[0]


class LowRank:
  """One matrix [a, b] of all workers, in float64."""

  def __init__(self, basis, b, n, feedback=True):
    self.q = np.asarray(basis, np.float64)
    a, r = self.q.shape
    self.errors, self.feedback = [np.zeros((a, b))] * n, feedback
    self.u, self.v = ([np.zeros((r, b))] * n for _ in range(2))

  def step(self, i, g, count):
    """Worker i's step for its gradient, without learning rate."""
    h = g + self.errors[i]
    c = self.q.T @ h
    if self.feedback:
      self.errors[i] = h - self.q @ c
    self.u[i] = 0.9 * self.u[i] + 0.1 * c
    self.v[i] = 0.9 * self.v[i] + 0.1 * c**2
    u, v = (x / (1 - 0.9**count) for x in (self.u[i], self.v[i]))
    scale = np.sqrt(v.mean(axis=0)) + EPS
    low = self.q @ (u / (np.sqrt(v) + EPS))
    return (1 - WEIGHT) * g / scale + WEIGHT * low

  def renew(self, moved):
    """The leading directions of what x has moved, and the moments in them."""
    new = np.linalg.svd(moved)[0][:, : self.q.shape[1]]
    turn = new.T @ self.q
    known = np.sum(turn**2, axis=1, keepdims=True)
    self.q = new
    self.u = [turn @ u for u in self.u]
    self.v = [turn**2 @ v + (1 - known) * v.mean(0) for v in self.v]


class FullRank(LowRank):
  """Adam, for a leaf that is not a matrix."""

  def __init__(self, shape, n):
    self.u, self.v = ([np.zeros(shape)] * n for _ in range(2))

  def step(self, i, g, count):
    self.u[i] = 0.9 * self.u[i] + 0.1 * g
    self.v[i] = 0.9 * self.v[i] + 0.1 * g**2
    u, v = (x / (1 - 0.9**count) for x in (self.u[i], self.v[i]))
    return u / (np.sqrt(v) + EPS)

  def renew(self, moved):
    pass


def split(x):
  """The matrices of a leaf, with their shorter side as rows."""
  if x.ndim < 2:
    return [x]
  x = x if x.shape[-2] <= x.shape[-1] else np.swapaxes(x, -1, -2)
  return list(x.reshape(-1, *x.shape[-2:]))


def join(parts, shape):
  if len(shape) < 2:
    return parts[0]
  x = np.stack(parts)
  x = x if shape[-2] <= shape[-1] else np.swapaxes(x, -1, -2)
  return x.reshape(shape)


def expected(n, t, bases, interval, feedback):
  """x after all rounds: the whole recursion in float64."""
  x = {k: np.zeros(shape) for k, shape in SHAPES.items()}
  parts = {
    k: [LowRank(q, split(x[k])[0].shape[1], n, feedback) for q in bases[k]]
    for k in MATRICES
  } | {'gain': [FullRank(SHAPES['gain'], n)]}
  count = 0
  for index in range(ROUNDS):
    y = [dict(x) for _ in range(n)]
    for _ in range(EVERY):
      count += 1
      for i, own in enumerate(y):
        g = {k: np.cosh(0.3 * t[k][i]) * (own[k] - t[k][i]) for k in SHAPES}
        norm = np.sqrt(sum(np.sum(one**2) for one in g.values()))
        for k, shape in SHAPES.items():
          clipped = split(g[k] * min(1, CLIP / norm))
          steps = [
            one.step(i, gi, count)
            for one, gi in zip(parts[k], clipped, strict=True)
          ]
          step = join(steps, shape) + (DECAY if len(shape) > 1 else 0) * own[k]
          own[k] = own[k] - RATE * step
    for k in SHAPES:
      mean = sum(own[k] for own in y) / n
      if index % interval == 0:
        for one, moved in zip(parts[k], split(mean - x[k]), strict=True):
          one.renew(moved)
      x[k] = mean
  return x


def check_oracle(n, dtype, tolerance, interval=1, feedback=True):
  t = jax.tree.map(lambda x: np.asarray(x, dtype), target(n))
  tx = lordo(
    quasi_hyperbolic=WEIGHT,
    weight_decay=DECAY,
    clip_norm=CLIP,
    eps=EPS,
    update_interval=interval,
    error_feedback=feedback,
  )
  params, state = begin(tx, n, dtype)
  bases = {k: low_rank(state).basis[k][0] for k in MATRICES}
  params, _ = trained(tx, n, EVERY * ROUNDS, t, dtype)
  for name, want in expected(n, t, bases, interval, feedback).items():
    assert workers.relative(params[name], want) < tolerance, name


@pytest.mark.parametrize(('n', 'interval'), [(1, 1), (2, 1), (3, 1), (3, 2)])
def test_float64_follows_the_oracle(n, interval):
  with jax.enable_x64(True):
    check_oracle(n, np.float64, 1e-10, interval)


def test_float64_follows_the_oracle_without_error_feedback():
  with jax.enable_x64(True):
    check_oracle(2, np.float64, 1e-10, feedback=False)


@pytest.mark.slow
@pytest.mark.parametrize('n', [1, 2, 3])
def test_float32_follows_the_oracle(n):
  check_oracle(n, np.float32, 1e-5)


def test_full_rank_without_a_gradient_term_is_adam_in_a_rotated_basis():
  """Exact within a round: Q Adam(Q^T G)."""
  t = {'w': jnp.asarray(target(1)['wide'][0])}
  tx = lordo(rank=5, axis_name=None, every=10, quasi_hyperbolic=1.0)
  params = {'w': jnp.zeros((5, 8))}
  state = tx.init(params)
  q = low_rank(state).basis['w'][0, 0]
  np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-6)
  adam = optax.adam(RATE, b2=0.9)
  turned = jnp.zeros((5, 8))
  theirs = adam.init(turned)
  for _ in range(9):
    g = gradient(gl.local_params(params, state), t)
    _, state = tx.update(g, state, params)
    g = q.T @ gradient(q @ turned, t['w'])
    updates, theirs = adam.update(g, theirs)
    turned = turned + updates
  local = gl.local_params(params, state)['w']
  assert workers.relative(local, q @ turned) < workers.FLOAT32_ROUNDING
  # All of H is in the basis.
  assert np.abs(low_rank(state).error['w']).max() < 1e-4


@pytest.mark.slow
def test_equal_data_are_one_worker_alone():
  t = jax.tree.map(lambda x: np.stack([x[0]] * 3), target(3))
  params, _ = trained(lordo(), 3, EVERY * ROUNDS, t)
  one = jax.tree.map(lambda x: x[:1], t)
  alone, _ = trained(lordo(), 1, EVERY * ROUNDS, one)
  for name in SHAPES:
    assert workers.relative(params[name], alone[name]) < 1e-5


@pytest.mark.parametrize(('weight', 'share'), [(1.0, 0.0), (0.7, 0.3)])
def test_without_the_gradient_term_x_stays_in_the_first_basis(weight, share):
  """The reason for the term: renewals of Q cannot leave its span."""
  tx, t = lordo(quasi_hyperbolic=weight), target(2)
  _, state = begin(tx, 2)
  q = low_rank(state).basis['wide'][0, 0]
  params, _ = trained(tx, 2, EVERY * ROUNDS, t)
  x = params['wide']
  outside = workers.relative(q @ (q.T @ x), x)
  if share:
    assert outside > share
  else:
    assert outside < 1e-5


def test_a_second_moment_keeps_its_mean_where_the_span_stays():
  """And no entry becomes negative, whatever the new basis."""
  tx, t = lordo(quasi_hyperbolic=1.0), target(2)
  step = simulated(tx, 2)
  params, state = begin(tx, 2)
  for _ in range(EVERY - 1):
    params, state = step(params, state, t)
  free = simulated(lordo(quasi_hyperbolic=1.0, every=10 * EVERY), 2)
  moment = lambda s: low_rank(s).adam.nu['wide']
  before = moment(free(params, state, t)[1])
  after = moment(step(params, state, t)[1])
  assert np.all(after >= 0)
  assert workers.relative(after, before) > 1e-3
  assert workers.relative(after.mean(2), before.mean(2)) < 1e-5


def test_the_basis_is_renewed_at_its_interval_only():
  tx, t = lordo(update_interval=2, every=1), target(2)
  step = simulated(tx, 2)
  params, state = begin(tx, 2)
  changed = []
  for _ in range(5):
    before = low_rank(state).basis['tall']
    params, state = step(params, state, t)
    changed.append(bool(np.any(low_rank(state).basis['tall'] != before)))
  assert changed == [True, False, True, False, True]


def test_a_matrix_that_does_not_move_keeps_its_basis():
  tx = lordo(axis_name=None, every=1)
  params = {'w': jnp.ones((5, 8)), 'still': jnp.ones((5, 8))}
  grads = {'w': params['w'], 'still': jnp.zeros((5, 8))}
  state = tx.init(params)
  _, after = tx.update(grads, state, params)
  bases = [low_rank(x).basis for x in (state, after)]
  np.testing.assert_array_equal(bases[0]['still'], bases[1]['still'])
  assert np.any(bases[0]['w'] != bases[1]['w'])


def on_workers(n, **options):
  """A run on a mesh of n workers, its rounds through a compressor."""
  outer = optax.chain(
    gl.compress_gradients(gl.PowerSGD(2), workers.AXIS, min_compression_rate=0),
    optax.sgd(1.0),
  )
  return on_mesh(n, lordo(outer=outer, **options))


def test_no_collective_runs_in_a_local_step():
  """Decompositions send nothing, and are a part of a round, too."""
  _, params, state, step = on_workers(4)
  compiled = step.lower(params, state, batch_of(0)).compile()
  plan = gl.plan(
    gl.PowerSGD(2), params, num_workers=4, min_compression_rate=0, every=EVERY
  )
  sent = gl.collectives(compiled)
  assert [(x.kind, x.dtype, x.size) for x in sent] == plan.rounds['compress']
  text = entry_computation(compiled)
  assert 'conditional' in text
  assert not re.search(r'all-reduce|all-gather|collective|all-to-all', text)
  assert not re.search(r'syevd|eigh|Eigh', text)
  assert re.search(r'syevd|eigh|Eigh', compiled.as_text())


def test_x_and_the_basis_are_bitwise_equal_on_all_workers():
  _, params, state, step = on_workers(4, update_interval=2)
  for i in range(2 * EVERY + 1):
    params, state, loss = step(params, state, batch_of(i))
    assert len(np.unique(loss)) == 4
  for x in jax.tree.leaves(params):
    shards = [np.asarray(s.data) for s in x.addressable_shards]
    for other in shards[1:]:
      np.testing.assert_array_equal(shards[0], other)
  basis = np.asarray(low_rank(state).basis['w'])
  for other in basis[1:]:
    np.testing.assert_array_equal(basis[0], other)
  assert np.any(low_rank(state).error['w'][0] != low_rank(state).error['w'][1])


def test_a_run_resumes_bit_by_bit_at_the_end_of_a_round():
  tx = lordo()
  mesh, params, state, step = on_mesh(4, tx)
  for i in range(EVERY):
    params, state, _ = step(params, state, batch_of(i))
  saved = jax.tree.map(np.asarray, gl.collapse(state))
  resumed = gl.place_state(
    saved, mesh, axis_name=workers.AXIS, tx=tx, params=params
  )
  jax.tree.map(np.testing.assert_array_equal, resumed, state)
  others = params
  for i in range(EVERY, 2 * EVERY):
    params, state, _ = step(params, state, batch_of(i))
    others, resumed, _ = step(others, resumed, batch_of(i))
  jax.tree.map(np.testing.assert_array_equal, others, params)


def test_another_number_of_workers_keeps_basis_and_mean_error():
  tx = lordo()
  _, params, state, step = on_mesh(4, tx)
  for i in range(EVERY):
    params, state, _ = step(params, state, batch_of(i))
  mesh, _, _, step = on_mesh(2, tx)
  placed = gl.place_state(
    gl.collapse(state), mesh, axis_name=workers.AXIS, exact=False
  )
  ours, theirs = low_rank(state), low_rank(placed)
  mean = ours.error['w'].mean(0)
  np.testing.assert_allclose(theirs.error['w'][1], mean, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(theirs.basis['w'][1], ours.basis['w'][0])
  params = jax.tree.map(np.asarray, params)
  _, _, loss = step(params, placed, batch_of(0, 2))
  assert np.all(np.isfinite(loss))


def test_a_worker_skips_a_step_that_is_not_finite():
  _, params, state, step = on_workers(4)
  state_of = lambda s, i: jax.tree.map(lambda x: np.asarray(x[i]), low_rank(s))
  before = state_of(state, 0)
  params, state, _ = step(params, state, batch_of(0).at[0].set(jnp.nan))
  jax.tree.map(np.testing.assert_array_equal, state_of(state, 0), before)
  assert np.any(state_of(state, 1).error['w'] != before.error['w'])
  for i in range(1, EVERY):
    params, state, _ = step(params, state, batch_of(i))
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((params, state)))
  assert np.all(low_rank(state).rounds == 1)


def test_a_round_that_is_not_finite_keeps_basis_and_moments():
  outer = optax.chain(gl.average_gradients(None), optax.scale(jnp.inf))
  tx = lordo(axis_name=None, every=1, outer=outer)
  params = {'w': jnp.ones((5, 8))}
  state = tx.init(params)
  updates, after = tx.update(params, state, params)
  assert not np.any(updates['w'])
  np.testing.assert_array_equal(
    low_rank(after).basis['w'], low_rank(state).basis['w']
  )
  assert np.all(low_rank(after).rounds == 0)


def test_a_worker_of_several_devices_takes_the_same_rounds():
  """On a (replica, fsdp) mesh errors are sharded as the parameters."""
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 2), (workers.AXIS, 'fsdp'), axis_types=auto)
  tx = lordo(update_interval=2)
  _, params, state, step = on_mesh(2, tx)
  sharding = jax.sharding.NamedSharding(mesh, P(None, 'fsdp'))
  others = params | {'w': jax.device_put(params['w'], sharding)}
  theirs = gl.init_state(tx, others, mesh, axis_name=workers.AXIS)
  error = low_rank(theirs).error['w']
  assert error.sharding.spec == P(workers.AXIS, None, 'fsdp')
  fsdp = gl.make_train_step(
    lambda p, x: jnp.mean((jnp.tanh(x @ p['w']) * p['gain'][None] - 1) ** 2),
    tx,
    mesh,
    axis_name=workers.AXIS,
    donate=False,
  )
  for i in range(EVERY + 1):
    params, state, loss = step(params, state, batch_of(i, 2))
    others, theirs, other = fsdp(others, theirs, batch_of(i, 2))
    np.testing.assert_allclose(other, loss, rtol=1e-4)
  for name in params:
    assert workers.relative(others[name], params[name]) < 1e-4


def test_moments_are_small_and_16_bit_parameters_keep_them_in_float32():
  params = {
    'w': jnp.ones((6, 12), jnp.bfloat16),
    'gain': jnp.ones(12, jnp.bfloat16),
  }
  tx = lordo(axis_name=None, every=2, error_feedback=False)
  state = tx.init(params)
  inner = low_rank(state)
  assert inner.adam.nu['w'].shape == (1, 1, RANK, 12)
  assert inner.basis['w'].shape == (1, 1, 6, RANK)
  assert not jax.tree.leaves(inner.error)
  for _ in range(2):
    updates, state = tx.update(params, state, params)
  assert updates['w'].dtype == jnp.bfloat16
  assert np.any(updates['w'])
  floating = [x.dtype for x in jax.tree.leaves(state.inner)]
  assert set(floating) == {np.dtype('float32'), np.dtype('int32')}


def test_leaves_that_are_not_matrices_take_steps_of_adam():
  """Those that dimension numbers exclude, too."""
  params = {'head': jnp.ones((6, 12)), 'w': jnp.ones((6, 12))}
  grads = jax.tree.map(
    lambda x: jnp.asarray(target(1)['tall'][0][:1, :1] + x), params
  )
  tx = lordo(
    axis_name=None,
    every=1,
    weight_dimension_numbers=[
      ('head', None),
      ('', optax.contrib.MuonDimensionNumbers(0, 1)),
    ],
  )
  adam = optax.adam(RATE, b2=0.9)
  state, theirs = tx.init(params), adam.init(params)
  for _ in range(3):
    updates, state = tx.update(grads, state, params)
    want, theirs = adam.update(grads, theirs)
  np.testing.assert_allclose(updates['head'], want['head'], rtol=1e-4)
  assert np.any(np.abs(updates['w'] - want['w']) > 1e-3)


def test_frozen_leaves_around_it():
  """As around compress_gradients."""
  params = {'a': jnp.ones(8), 'still': jnp.ones((5, 8)), 'w': jnp.ones((5, 8))}
  labels = {'a': 'train', 'still': 'freeze', 'w': 'train'}
  tx = optax.partition(
    {'train': lordo(axis_name=None, every=1), 'freeze': optax.set_to_zero()},
    labels,
  )
  updates, _ = tx.update(params, tx.init(params), params)
  assert not np.any(updates.pop('still'))
  assert all(np.all(x) for x in jax.tree.leaves(updates))


@pytest.mark.parametrize(
  ('options', 'kind', 'message'),
  [
    ({'rank': 0}, ValueError, 'rank must be at least 1'),
    ({'every': 0}, ValueError, 'every must be at least 1'),
    ({'update_interval': 0}, ValueError, 'update_interval must be at least'),
    ({'quasi_hyperbolic': 1.5}, ValueError, r'quasi_hyperbolic must be in \[0'),
    ({'clip_norm': 0}, ValueError, 'clip_norm must be above 0'),
    ({'error_feedback': 1}, TypeError, 'error_feedback must be True or False'),
    ({'seed': -1}, ValueError, 'seed must be at least 0'),
    ({'outer': gl.PowerSGD(2)}, TypeError, 'outer must be an optax.Gradient'),
  ],
  ids=lambda x: '' if not isinstance(x, dict) else next(iter(x)),
)
def test_mistakes_get_answers(options, kind, message):
  with pytest.raises(kind, match=message):
    lordo(**options)


def test_a_rank_at_which_nothing_shrinks_is_refused():
  tx = lordo(rank=6, min_compression_rate=1.0)
  with pytest.raises(ValueError, match='shrink by more than 1 times at rank 6'):
    tx.init({'w': jnp.ones((6, 12))})


def test_an_outer_optimizer_that_does_not_average_is_refused():
  _, params, state, step = on_mesh(2, lordo(outer=optax.sgd(1.0)))
  with pytest.raises(ValueError, match='outer does not average it'):
    step(params, state, batch_of(0, 2))
