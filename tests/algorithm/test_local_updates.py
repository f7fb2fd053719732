"""Are rounds of local steps what their recursion says, and exact?"""

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
import oracle
import workers

SHAPES = {'tall': (9, 6), 'gain': (4,)}
RANK, EVERY, ROUNDS = 2, 3, 4
STEPS = EVERY * ROUNDS
P = jax.sharding.PartitionSpec
SGD = optax.sgd(1.0)


def target(n, seed=0):
  """Every worker's own quadratic: f_i(y) = |y - t_i|^2 c_i / 2."""
  rng = np.random.default_rng(seed)
  return {
    name: rng.normal(size=shape) + 0.5 * rng.normal(size=(n, *shape))
    for name, shape in SHAPES.items()
  }


def begin(tx, n, dtype=jnp.float32):
  params = workers.zeros(SHAPES, dtype)
  return params, gl.expand(tx.init(params), n, exact=False)


def trained(tx, n, steps, t, dtype=jnp.float32):
  params = workers.zeros(SHAPES, dtype)
  return local_steps.trained(tx, n, steps, t, params)


def outer_of(compressor, *optimizer, **options):
  compress = gl.compress_gradients(
    compressor, workers.AXIS, min_compression_rate=0, **options
  )
  return optax.chain(compress, *(optimizer or (optax.sgd(1.0),)))


def adam(t, y, moments, count):
  """A step of Adam at 0.1, both decays 0.9, for one leaf of one worker."""
  g = np.cosh(0.3 * t) * (y - t)
  m, v = (0.9 * moments[0] + 0.1 * g, 0.9 * moments[1] + 0.1 * g**2)
  corrected = m / (1 - 0.9**count), v / (1 - 0.9**count)
  return y - 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8), (m, v)


def expected(n, t, decay, dtype, ahead=(0, 0), delay=0):
  """x after all steps: the whole recursion in float64.

  `tall` and `gain` have rounds of their own; those of one are `ahead`.
  """
  method = oracle.range_finder(RANK, RANK)
  b, a = SHAPES['tall']
  first = jax.random.normal(jax.random.key(0), (1, b, RANK), dtype)[0]
  draw = np.zeros((b, 0)), np.asarray(first, np.float64)
  x = {k: np.zeros(shape) for k, shape in SHAPES.items()}
  moved = {k: [np.zeros(s)] * n for k, s in SHAPES.items()}
  sent = {k: [np.zeros(s)] * n for k, s in SHAPES.items()}
  errors = [np.zeros((b, a)) for _ in range(n)]
  velocity = {k: np.zeros(shape) for k, shape in SHAPES.items()}
  inner = {k: [(np.zeros(s), np.zeros(s))] * n for k, s in SHAPES.items()}
  in_flight = dict.fromkeys(SHAPES, (0, None))
  taken = dict(zip(SHAPES, ahead, strict=True))
  memory = None
  for count in range(1, STEPS + 1):
    for k in SHAPES:
      y = [x[k] + s + m for s, m in zip(sent[k], moved[k], strict=True)]
      for i in range(n):
        new, inner[k][i] = adam(t[k][i], y[i], inner[k][i], count)
        moved[k][i] = moved[k][i] + new - y[i]
    for k in SHAPES:
      taken[k] += 1
      is_end = taken[k] == EVERY or count == STEPS
      left, move = in_flight[k]
      if left == 1 or (left and is_end):
        x[k] = x[k] + move
        sent[k] = [np.zeros_like(x[k])] * n
      in_flight[k] = max(left - 1, 0), move
      if not is_end:
        continue
      d = [-m for m in moved[k]]
      if k == 'tall':
        h = [(g + decay * e).T for g, e in zip(d, errors, strict=True)]
        mean, whole, memory = method(h, memory, draw)
        errors = [(p - q).T for p, q in zip(h, whole, strict=True)]
        mean = mean.T
      else:
        mean = oracle.mean(d)
      velocity[k] = 0.9 * velocity[k] + mean  # Nesterov, as in optax.sgd.
      move = -0.7 * (0.9 * velocity[k] + mean)
      if delay and count < STEPS:
        in_flight[k], sent[k] = (delay, move), moved[k]
      else:
        x[k] = x[k] + move
      moved[k], taken[k] = [np.zeros_like(x[k])] * n, 0
  return x


def check_oracle(n, dtype, tolerance, ahead=(0, 0), **options):
  t = jax.tree.map(lambda x: np.asarray(x, dtype), target(n))
  outer = outer_of(
    gl.PowerSGD(RANK),
    optax.sgd(0.7, momentum=0.9, nesterov=True),
    error_decay=0.9,
  )
  inner = optax.adam(0.1, b2=0.9)  # 1 - 0.999 alone rounds by 6e-5.
  tx = gl.local_updates(inner, outer=outer, every=EVERY, **options)
  params, _ = trained(tx, n, STEPS, t, dtype)
  want = expected(n, t, 0.9, dtype, ahead, options.get('delay', 0))
  for name in SHAPES:
    assert workers.relative(params[name], want[name]) < tolerance, name


@pytest.mark.parametrize('n', [1, 2, 3, 4])
def test_float32_follows_the_oracle(n):
  check_oracle(n, np.float32, 1e-5)


def test_float64_follows_the_oracle():
  with jax.enable_x64(True):
    check_oracle(3, np.float64, 1e-10)


@pytest.mark.parametrize('fragments', [1, 2])
@pytest.mark.parametrize('delay', [0, 1, 2])
def test_fragments_and_delay_follow_the_oracle(fragments, delay):
  """The small leaf is the second fragment, whose rounds end a step earlier.

  Its last round is shorter, as the run ends.
  """
  ahead = (0, 1) if fragments == 2 else (0, 0)
  options = {'fragments': fragments, 'delay': delay, 'total_steps': STEPS}
  with jax.enable_x64(True):
    check_oracle(3, np.float64, 1e-10, ahead, **options)
  if fragments == delay == 2:
    check_oracle(3, np.float32, 1e-5, ahead, **options)


@pytest.mark.parametrize('compressor', [gl.PowerSGD(2), gl.GreedyLore(2, 2)])
def test_rounds_of_one_sgd_step_are_compressed_gradients(compressor):
  """H = 1, inner sgd(rate), outer sgd(1): errors are scaled by the rate."""
  n, rate, t = 3, 0.1, target(3)
  local = gl.local_updates(optax.sgd(rate), outer=outer_of(compressor), every=1)
  params, state = trained(local, n, 6, t)
  usual = outer_of(compressor, optax.sgd(rate))
  want, plain = trained(usual, n, 6, t)
  errors = [optax.tree.get(x, 'error')['tall'] for x in (state, plain)]
  assert workers.relative(errors[0], rate * errors[1]) < 1e-4
  for name in SHAPES:
    assert workers.relative(params[name], want[name]) < 1e-4


@pytest.mark.parametrize('inner', [optax.adam(0.1), optax.sgd(0.1, 0.9)])
def test_equal_data_are_one_worker_alone(inner):
  n = 3
  t = jax.tree.map(lambda x: np.stack([x[0]] * n), target(n))
  outer = optax.chain(gl.average_gradients(workers.AXIS), optax.sgd(1.0))
  tx = gl.local_updates(inner, outer=outer, every=EVERY)
  params, _ = trained(tx, n, STEPS, t)
  alone = {k: jnp.zeros(shape) for k, shape in SHAPES.items()}
  state = inner.init(alone)
  for _ in range(STEPS):
    one = jax.tree.map(lambda x: x[0], t)
    updates, state = inner.update(gradient(alone, one), state, alone)
    alone = optax.apply_updates(alone, updates)
  for name in SHAPES:
    assert workers.relative(params[name], alone[name]) < 1e-5


@pytest.mark.parametrize(
  'compressor',
  [
    gl.PowerSGD(2),
    gl.Sign(),
    gl.ChunkTopK(chunk=4, keep=5, bits=2),
    gl.ThresholdTopK(0.2, 2),
  ],
  ids=repr,
)
def test_a_round_conserves_what_the_workers_moved(compressor):
  """mean D + mean E before = compressed mean + mean E after."""
  n, t = 4, target(4)
  tx = gl.local_updates(
    optax.adam(0.1), outer=outer_of(compressor), every=EVERY
  )
  step = simulated(tx, n)
  params, state = begin(tx, n)
  for i in range(STEPS):
    before = params, state
    params, state = step(params, state, t)
    if (i + 1) % EVERY:
      jax.tree.map(np.testing.assert_array_equal, params, before[0])
      continue
    # The last step of the round, without its end.
    free = gl.local_updates(
      optax.adam(0.1), outer=outer_of(compressor), every=10 * STEPS
    )
    moved = simulated(free, n)(*before, t)[1].delta.tree['tall']
    error = lambda s: optax.tree.get(s, 'error')['tall'].mean(0)
    came = -moved.mean(0) + error(before[1])
    went = before[0]['tall'] - params['tall'] + error(state)
    assert workers.relative(went, came) < workers.FLOAT32_ROUNDING
    assert not np.any(state.delta.tree['tall'])


def rounds_of(compressor, every=3, fragments=1, **options):
  outer = outer_of(compressor, optax.sgd(0.7, 0.9), **options)
  return gl.local_updates(
    optax.adam(0.1), outer=outer, every=every, fragments=fragments
  )


def test_no_collective_runs_in_a_local_step():
  """Not for the loss, nor for a NaN: all of them belong to a round."""
  tx = rounds_of(gl.PowerSGD(2))
  _, params, state, step = on_mesh(4, tx)
  compiled = step.lower(params, state, batch_of(0)).compile()
  sent = gl.collectives(compiled)
  plan = gl.plan(
    gl.PowerSGD(2), params, num_workers=4, min_compression_rate=0, every=3
  )
  assert plan.bytes_in('local') == 0
  assert plan.bytes_per_step == plan.bytes_in('compress') / 3
  assert [(x.kind, x.dtype, x.size) for x in sent] == plan.rounds['compress']
  text = entry_computation(compiled)
  assert 'conditional' in text
  assert not re.search(r'all-reduce|all-gather|collective|all-to-all', text)


def sent_in(compiled):
  """What a compiled program sends, as a plan lists it."""
  rounds = {}
  for x in gl.collectives(compiled):
    rounds.setdefault(x.phase, []).append((x.kind, x.dtype, x.size))
  return rounds


def test_fragments_are_sent_at_their_own_times():
  """No step sends more than one of them, as the compiled program says."""
  options = {'every': 4, 'fragments': 2}
  tx = rounds_of(gl.PowerSGD(2), **options)
  _, params, state, step = on_mesh(2, tx)
  compiled = step.lower(params, state, batch_of(0, 2)).compile()
  plan = gl.plan(
    gl.PowerSGD(2), params, num_workers=2, min_compression_rate=0, **options
  )
  assert list(plan.rounds) == ['local', 'compress_1of2', 'dense_2of2']
  assert sent_in(compiled) == {x: y for x, y in plan.rounds.items() if y}
  both = plan.bytes_in('compress_1of2') + plan.bytes_in('dense_2of2')
  assert plan.bytes_per_step == both / 4
  assert plan.peak_bytes == plan.bytes_in('compress_1of2')
  for i in range(9):
    before = params
    params, state, _ = step(params, state, batch_of(i, 2))
    moved = [np.any(params[k] != before[k]) for k in ('w', 'gain')]
    phases = ['compress_1of2', 'dense_2of2']
    assert moved == [x in plan.phase_at(i) for x in phases], i
  assert state.rounds.tolist() == [2, 2]


def test_moments_are_averaged_every_so_many_rounds():
  inner = optax.adam(0.1)
  outer = outer_of(gl.PowerSGD(2))
  options = {'every': 2, 'average_moments': 2}
  tx = gl.local_updates(inner, outer=outer, axis_name=workers.AXIS, **options)
  _, params, state, step = on_mesh(2, tx)
  compiled = step.lower(params, state, batch_of(0, 2)).compile()
  plan = gl.plan(
    gl.PowerSGD(2),
    params,
    num_workers=2,
    min_compression_rate=0,
    inner=inner,
    **options,
  )
  assert sent_in(compiled) == {x: y for x, y in plan.rounds.items() if y}
  assert plan.bytes_in('moments') == 2 * plan.dense_bytes
  assert plan.bytes_per_step == plan.bytes_in('compress') / 2 + (
    plan.bytes_in('moments') / 4
  )
  assert plan.peak_bytes == plan.bytes_in('compress+moments')
  for i in range(4):
    params, state, _ = step(params, state, batch_of(i, 2))
    own, other = optax.tree.get(state.inner.tree, 'nu')['w']
    assert np.array_equal(own, other) == ('moments' in plan.phase_at(i)), i


def test_selsync_ends_rounds_when_a_gradient_changes():
  """One worker's flag, which all receive; nothing else is sent in between."""
  rule = gl.SelSync(0.3, smoothing=0.5, max_steps=6)
  outer = outer_of(gl.PowerSGD(2))
  tx = gl.local_updates(
    optax.sgd(1e-3), outer=outer, every=rule, axis_name=workers.AXIS
  )
  _, params, state, step = on_mesh(2, tx)
  x = batch_of(0, 2)
  compiled = step.lower(params, state, x).compile()
  plan = gl.plan(
    gl.PowerSGD(2), params, num_workers=2, min_compression_rate=0, every=rule
  )
  assert sent_in(compiled) == plan.rounds
  assert plan.bytes_in('local') == 4
  assert plan.bytes_per_step == 4 + plan.bytes_in('compress')
  since = []
  for i in range(10):
    # From step 3 on, the second worker has no gradient: its norm keeps falling.
    x = x.at[2:].multiply(0.0 if i == 3 else 1.0)
    params, state, _ = step(params, state, x)
    since.append(int(state.since[0]))
  assert since == [1, 2, 3] + 7 * [0]


def test_several_steps_in_a_call_are_those_steps():
  tx = rounds_of(gl.PowerSGD(2))
  _, params, state, step = on_mesh(2, tx)
  _, *_, scan = on_mesh(2, tx, steps_per_call=4)
  batches = jnp.stack([batch_of(i, 2) for i in range(4)])
  others, theirs, losses = scan(params, state, batches)
  for i in range(4):
    params, state, loss = step(params, state, batches[i])
    np.testing.assert_allclose(losses[i], loss, rtol=1e-5)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, (params, state.delta), (others, theirs.delta))
  with pytest.raises(ValueError, match=r'must be the 4 steps of a call'):
    scan(others, theirs, batches[:3])


def test_nothing_is_lost_in_flight():
  """With a delay, y_i are where they would be, and resume bit by bit."""
  outer = outer_of(gl.Sign())
  tx = gl.local_updates(optax.adam(0.1), outer=outer, every=3)
  late = gl.local_updates(
    optax.adam(0.1), outer=outer_of(gl.Sign()), every=3, delay=2
  )
  mesh, params, state, step = on_mesh(2, late)
  for i in range(4):
    params, state, _ = step(params, state, batch_of(i, 2))
  assert state.in_flight.left.tolist() == [1]
  assert np.any(state.in_flight.sent.tree['w'])
  np.testing.assert_array_equal(params['w'], np.ones((6, 12)))
  saved = jax.tree.map(np.asarray, gl.collapse(state))
  place = lambda **options: gl.place_state(
    saved, mesh, axis_name=workers.AXIS, params=params, **options
  )
  resumed, others = place(tx=late), params
  for i in range(4, 9):
    params, state, _ = step(params, state, batch_of(i, 2))
    others, resumed, _ = step(others, resumed, batch_of(i, 2))
    assert np.any(params['w'] != 1)
  jax.tree.map(np.testing.assert_array_equal, params, others)
  with pytest.raises(
    ValueError, match=r"17, among them 'in_flight/left', 'in_flight/moves"
  ):
    place(tx=tx)


def test_every_worker_has_its_loss_and_x_is_bitwise_equal():
  tx = rounds_of(gl.Sign())
  _, params, state, step = on_mesh(4, tx)
  for i in range(7):
    params, state, loss = step(params, state, batch_of(i))
    assert loss.shape == (4,)
    assert len(np.unique(loss)) == 4
    for x in jax.tree.leaves(params):
      shards = [np.asarray(s.data) for s in x.addressable_shards]
      for other in shards[1:]:
        np.testing.assert_array_equal(shards[0], other)
    assert int(state.since[0]) == (i + 1) % 3


def test_a_worker_skips_a_step_that_is_not_finite():
  tx = rounds_of(gl.PowerSGD(2))
  _, params, state, step = on_mesh(4, tx)
  batch = batch_of(0).at[0].set(jnp.nan)
  params, state, loss = step(params, state, batch)
  assert np.isnan(loss).tolist() == [True, False, False, False]
  moved = np.abs(state.delta.tree['w']).max((1, 2))
  assert moved[0] == 0
  assert np.all(moved[1:] > 0)
  for i in range(1, 3):
    params, state, _ = step(params, state, batch_of(i))
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((params, state)))
  assert not np.any(state.delta.tree['w'])


@pytest.mark.parametrize('compressor', [gl.PowerSGD(2), gl.Sign()], ids=repr)
def test_a_run_resumes_bit_by_bit_at_the_end_of_a_round(compressor):
  tx = rounds_of(compressor)
  mesh, params, state, step = on_mesh(4, tx)
  for i in range(3):
    params, state, _ = step(params, state, batch_of(i))
  saved = jax.tree.map(np.asarray, gl.collapse(state))
  resumed = gl.place_state(
    saved, mesh, axis_name=workers.AXIS, tx=tx, params=params
  )
  if isinstance(compressor, gl.Sign):
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
  others = params
  for i in range(3, 9):
    params, state, loss = step(params, state, batch_of(i))
    others, resumed, other = step(others, resumed, batch_of(i))
    np.testing.assert_allclose(loss, other, rtol=1e-5)
  compare = np.testing.assert_array_equal
  if compressor.linear:  # Resumed from the mean error, which rounds.
    compare = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4)
  jax.tree.map(compare, params, others)


def test_another_number_of_workers_takes_the_mean_of_inner_moments():
  tx = rounds_of(gl.PowerSGD(2))
  _, params, state, step = on_mesh(4, tx)
  for i in range(3):
    params, state, _ = step(params, state, batch_of(i))
  two = workers.mesh_of(2)
  place = lambda **options: gl.place_state(
    gl.collapse(state), two, axis_name=workers.AXIS, **options
  )
  with pytest.raises(ValueError, match=r'4 workers.*exact=False'):
    place()
  placed = place(exact=False)
  for got, had in zip(
    jax.tree.leaves(placed.inner), jax.tree.leaves(state.inner), strict=True
  ):
    assert got.shape[0] == 2
    want = np.asarray(had).mean(0)
    np.testing.assert_allclose(got[1], want, rtol=1e-6)
  error = lambda s: optax.tree.get(s, 'error')['w']
  np.testing.assert_allclose(error(placed)[0], error(state).mean(0), rtol=1e-5)
  jax.tree.map(
    np.testing.assert_array_equal, placed.outer[0][1], state.outer[0][1]
  )
  _, _, _, step = on_mesh(2, tx)
  params = jax.tree.map(np.asarray, params)
  for i in range(3):
    params, placed, loss = step(params, placed, batch_of(i))
  assert np.all(np.isfinite(loss))


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    ({'start_step': 3}, [0, 0, 0, 1, 2, 3, 0, 1, 2, 3, 0]),
    ({'total_steps': 6}, [1, 2, 3, 0, 1, 0]),
  ],
  ids=['a start of rounds of one step', 'the last step ends a round'],
)
def test_when_rounds_end(options, expected):
  outer = outer_of(gl.PowerSGD(2))
  tx = gl.local_updates(optax.adam(0.1), outer=outer, every=4, **options)
  _, params, state, step = on_mesh(2, tx)
  since = []
  for i in range(len(expected)):
    params, state, _ = step(params, state, batch_of(i, 2))
    since.append(int(state.since[0]))
  assert since == expected


def test_qsr_makes_rounds_longer_as_the_rate_falls():
  schedule = optax.linear_schedule(0.1, 0.02, 12)
  rule = gl.QSR(schedule, alpha=0.0995, min_steps=2)
  lengths = [int(rule.length(jnp.int32(i))) for i in (0, 6, 12)]
  assert lengths == [2, 2, 24]
  tx = gl.local_updates(
    optax.adam(schedule), outer=outer_of(gl.PowerSGD(2)), every=rule
  )
  _, params, state, step = on_mesh(2, tx)
  ends = []
  for i in range(20):
    params, state, _ = step(params, state, batch_of(i, 2))
    if int(state.since[0]) == 0:
      ends.append(i + 1)
  assert ends[:4] == [2, 4, 6, 8]
  lengths = np.diff([0, *ends])
  assert np.all(np.diff(lengths) >= 0)
  assert lengths[-1] >= 4


def test_qsr_does_not_lose_a_step_to_rounding():
  """(1.3 / 0.1)^2 is 168.99998 in float32."""
  for tenths in range(1, 60):
    rule = gl.QSR(0.1, alpha=tenths / 10)
    assert rule.length(jnp.int32(0)) == tenths**2


def test_frozen_leaves_and_bf16():
  params = {'w': jnp.ones((6, 12), jnp.bfloat16), 'gain': jnp.ones(12)}
  rules = [('gain', gl.Frozen()), ('', gl.PowerSGD(2))]
  tx = gl.local_updates(
    optax.adam(0.1),
    outer=optax.chain(
      gl.compress_gradients(rules, None, min_compression_rate=0), optax.sgd(1.0)
    ),
    every=2,
  )
  state = tx.init(params)
  assert state.delta.tree['w'].dtype == jnp.float32
  for _ in range(2):
    updates, state = tx.update(params, state, params)
  assert updates['w'].dtype == jnp.bfloat16
  assert np.any(updates['w'])
  assert not np.any(updates['gain'])


@pytest.mark.parametrize(
  ('make', 'kind', 'message'),
  [
    (lambda: rounds_of(gl.PowerSGD(2), 0), ValueError, 'every must be at'),
    (lambda: rounds_of(gl.PowerSGD(2), 2.5), TypeError, 'every must be an'),
    (lambda: gl.QSR(0.1, 0.0), ValueError, 'alpha must be above 0'),
    (
      lambda: gl.local_updates(optax.adam(0.1), outer=gl.PowerSGD(2), every=2),
      TypeError,
      'outer must be an optax.GradientTransformation',
    ),
    (
      lambda: gl.local_updates(
        optax.adam(0.1), outer=gl.average_gradients(None), every=2
      ).init({'w': jnp.ones(3)}),
      ValueError,
      'outer must be a chain that ends with an optimizer',
    ),
    (
      lambda: gl.local_updates(
        optax.adam(0.1), outer=outer_of(gl.Sign()), every=4, delay=4
      ),
      ValueError,
      'delay must be below the number of steps in a round, 4, got 4',
    ),
    (
      lambda: gl.local_updates(
        optax.adam(0.1),
        outer=outer_of(gl.Sign()),
        every=gl.SelSync(0.1),
        delay=3,
        axis_name=workers.AXIS,
      ),
      ValueError,
      'those of SelSync can be of one step, got delay=3',
    ),
    (
      lambda: gl.local_updates(
        optax.adam(0.1), outer=outer_of(gl.Sign()), every=2, fragments=3
      ),
      ValueError,
      'fragments must be at most every, 2',
    ),
    (
      lambda: gl.local_updates(
        optax.adam(0.1), outer=outer_of(gl.Sign()), every=gl.SelSync(0.1)
      ),
      TypeError,
      "needs the workers' axis_name",
    ),
    (
      lambda: rounds_of(gl.PowerSGD(2), error_decay=1.5),
      ValueError,
      r'error_decay must be in \[0, 1\]',
    ),
    (
      lambda: on_mesh(2, rounds_of(gl.PowerSGD(2)), diagnose=True)[3](
        *on_mesh(2, rounds_of(gl.PowerSGD(2)))[1:3], batch_of(0)
      ),
      ValueError,
      'diagnose=True sends in every step',
    ),
    (
      lambda: on_mesh(
        2, gl.local_updates(optax.adam(0.1), outer=optax.sgd(1.0), every=2)
      )[3](
        *on_mesh(
          2, gl.local_updates(optax.adam(0.1), outer=optax.sgd(1.0), every=2)
        )[1:3],
        batch_of(0),
      ),
      ValueError,
      'outer does not average it',
    ),
  ],
)
def test_mistakes_get_answers(make, kind, message):
  with pytest.raises(kind, match=message):
    make()


@pytest.mark.parametrize(
  ('outer', 'at', 'message'),
  [
    (
      optax.chain(optax.sgd(0.7, 0.9), outer_of(gl.PowerSGD(2))),
      lambda params, state: params,
      'outer optimizer got what the workers have not averaged yet',
    ),
    (
      outer_of(gl.PowerSGD(2)),
      gl.local_params,
      'params must be the global parameters',
    ),
  ],
)
def test_what_all_workers_share_must_not_differ(outer, at, message):
  tx = gl.local_updates(optax.sgd(0.1), outer=outer, every=2)
  p = jax.sharding.PartitionSpec
  mesh = workers.mesh_of(2)
  params = {'w': jnp.ones((6, 12))}
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  specs = gl.state_partition_specs(state, workers.AXIS)

  @jax.shard_map(
    mesh=mesh, in_specs=(p(), specs, p(workers.AXIS)), out_specs=(p(), specs)
  )
  def update(params, state, grads):
    grads = jax.tree.map(lambda g: g[0], grads)
    return tx.update(grads, state, at(params, state))

  with pytest.raises(ValueError, match=message):
    update(params, state, {'w': jnp.ones((2, 6, 12))})


def test_a_plan_knows_which_steps_send():
  """Refreshes and the dense start of the compressor count rounds."""
  params = {'w': jnp.ones((6, 12))}
  plan = gl.plan(
    gl.GreedyLore(2, 2),
    params,
    num_workers=4,
    start_step=1,
    every=3,
    local_start_step=2,
  )
  phases = ' '.join(plan.phase_at(i) for i in range(11))
  assert phases == (
    'warmup refresh local local compress local local refresh'
    ' local local compress'
  )
  of = plan.bytes_in
  total = of('warmup') + 2 * of('refresh') + of('compress')
  assert plan.bytes_after(8) == total
  assert plan.bytes_per_step == (of('refresh') + of('compress')) / 6
  assert 'local step sends' in str(plan)
  seconds = gl.predict(plan, bandwidth=1e6, latency=0.05)
  assert seconds.average < 0.6 * seconds.dense


@pytest.mark.parametrize('delay', [0, 2])
def test_a_plan_counts_what_a_worker_keeps_of_its_parameters(delay):
  params = {'w': jnp.ones((6, 12)), 'gain': jnp.ones(12, jnp.bfloat16)}
  outer = optax.chain(gl.average_gradients(None), optax.sgd(1.0))
  tx = gl.local_updates(optax.sgd(0.1), outer=outer, every=3, delay=delay)
  state = tx.init(params)
  kept = [state.delta]
  if delay:
    kept += [state.in_flight.moves, state.in_flight.sent]
  plan = gl.plan(gl.Dense(), params, every=3, delay=delay)
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
  assert plan.local_bytes == plan.state_bytes == size


def test_a_printed_plan_has_the_average_of_the_whole_run():
  """With the rounds of one step at its start, and those that a rule makes."""
  params = {'w': jnp.ones((64, 128))}
  schedule = optax.cosine_decay_schedule(0.1, 100)
  rule = gl.QSR(schedule, alpha=0.1, min_steps=2)
  for every in (4, rule, gl.SelSync(0.1)):
    plan = gl.plan(
      gl.PowerSGD(2), params, every=every, local_start_step=8, total_steps=100
    )
    (line,) = (x for x in str(plan).splitlines() if 'of 100 steps' in x)
    assert ('at most' in line) == isinstance(every, gl.SelSync)
    less = 100 * plan.dense_bytes / plan.bytes_after(100)
    assert f'{less:.2f}x less' in line


def test_a_plan_refuses_fragments_as_the_transformation_does():
  params = {'w': jnp.ones((6, 12)), 'gain': jnp.ones(12)}
  for every, message in ((1, 'at most every, 1'), (gl.SelSync(0.1), 'equal')):
    with pytest.raises(ValueError, match=message):
      gl.plan(gl.PowerSGD(2), params, every=every, fragments=2)


def test_a_plan_follows_a_rule():
  schedule = optax.linear_schedule(0.1, 0.02, 12)
  rule = gl.QSR(schedule, alpha=0.0995, min_steps=2)
  plan = gl.plan(gl.PowerSGD(2), {'w': jnp.ones((6, 12))}, every=rule)
  sends = [i for i in range(20) if plan.phase_at(i) != 'local']
  lengths = np.diff([-1, *sends])
  assert lengths[0] == 2
  assert np.all(np.diff(lengths) >= 0)
  assert plan.bytes_per_step == plan.bytes_in('compress') / 2


def test_a_worker_of_several_devices_takes_the_same_rounds():
  """On a (replica, fsdp) mesh everything stays sharded as the parameters."""
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 2), (workers.AXIS, 'fsdp'), axis_types=auto)
  tx = rounds_of(gl.PowerSGD(2))
  _, params, state, step = on_mesh(2, tx)
  sharding = jax.sharding.NamedSharding(mesh, P(None, 'fsdp'))
  others = params | {'w': jax.device_put(params['w'], sharding)}
  theirs = gl.init_state(tx, others, mesh, axis_name=workers.AXIS)
  assert theirs.delta.tree['w'].sharding.spec == P(workers.AXIS, None, 'fsdp')
  fsdp = gl.make_train_step(
    lambda p, x: jnp.mean((jnp.tanh(x @ p['w']) * p['gain'][None] - 1) ** 2),
    tx,
    mesh,
    axis_name=workers.AXIS,
    donate=False,
  )
  for i in range(4):
    params, state, loss = step(params, state, batch_of(i, 2))
    others, theirs, other = fsdp(others, theirs, batch_of(i, 2))
    np.testing.assert_allclose(other, loss, rtol=1e-4)
  assert others['w'].sharding.spec == P(None, 'fsdp')
  for name in params:
    assert workers.relative(others[name], params[name]) < 1e-4


@pytest.mark.parametrize(
  'inner',
  [
    optax.adamw(0.05),
    optax.sgd(0.05, momentum=0.9, nesterov=True),
    optax.sgd(0.05),
    optax.contrib.muon(0.05),
  ],
  ids=['adamw', 'nesterov', 'sgd', 'muon'],
)
def test_any_optimizer_inside_learns(inner):
  """On one batch; none of them needs anything but gradients and params."""
  outer = optax.chain(
    gl.compress_gradients(gl.PowerSGD(2), workers.AXIS), optax.sgd(1.0)
  )
  tx = gl.local_updates(inner, outer=outer, every=4)
  _, params, state, step = on_mesh(2, tx)
  x = batch_of(0, 2)
  first = None
  for _ in range(16):
    params, state, loss = step(params, state, x)
    first = loss.mean() if first is None else first
  assert loss.mean() < 0.9 * first


def test_pmap_takes_the_same_rounds():
  n, tx = 2, rounds_of(gl.PowerSGD(2))
  _, params, state, step = on_mesh(n, tx)

  def loss_fn(p, x):
    return jnp.mean((jnp.tanh(x @ p['w']) * p['gain'][None] - 1) ** 2)

  def one(params, state, x):
    local = gl.local_params(params, state)
    loss, grads = gl.value_and_local_grad(loss_fn, workers.AXIS)(local, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  mapped = jax.pmap(one, axis_name=workers.AXIS, devices=jax.devices()[:n])
  copies = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * n), tree)
  others, theirs = copies(params), copies(tx.init(params))
  for i in range(3):
    x = batch_of(i, n)
    params, state, loss = step(params, state, x)
    others, theirs, other = mapped(others, theirs, x.reshape(n, -1, 6))
    np.testing.assert_allclose(other, loss, rtol=1e-5)
  for name in params:
    assert workers.relative(others[name][1], params[name]) < 1e-4


def test_qsr_sends_during_a_warmup_from_zero():
  schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 4, 20)
  rule = gl.QSR(schedule, alpha=0.15, min_steps=2)
  tx = gl.local_updates(
    optax.adam(schedule), outer=outer_of(gl.PowerSGD(2)), every=rule
  )
  _, params, state, step = on_mesh(2, tx)
  plan = gl.plan(gl.PowerSGD(2), params, every=rule)
  sends = []
  for i in range(16):
    params, state, _ = step(params, state, batch_of(i, 2))
    sends.append(int(state.since[0]) == 0)
  assert sum(sends[:8]) >= 2
  assert sends == [plan.phase_at(i) != 'local' for i in range(16)]


@pytest.mark.parametrize('wrap', ['partition', 'masked'])
def test_frozen_leaves_around_it(wrap):
  """As around compress_gradients: nothing is sent for them."""
  tx = rounds_of(gl.PowerSGD(2), every=2)
  tx = {
    'partition': lambda: optax.partition(
      {'a': tx, 'f': optax.set_to_zero()}, {'w': 'a', 'gain': 'f'}
    ),
    'masked': lambda: optax.chain(
      optax.masked(tx, {'w': True, 'gain': False}),
      optax.masked(optax.set_to_zero(), {'w': False, 'gain': True}),
    ),
  }[wrap]()
  _, start, state, step = on_mesh(2, tx)
  params = start
  for i in range(2):
    params, state, _ = step(params, state, batch_of(i, 2))
  assert np.any(params['w'] != start['w'])
  np.testing.assert_array_equal(params['gain'], start['gain'])


@pytest.mark.parametrize(
  ('make', 'kind', 'message'),
  [
    (
      lambda: gl.local_updates(
        rounds_of(gl.PowerSGD(2)), outer=outer_of(gl.PowerSGD(2)), every=2
      ),
      ValueError,
      'inner must be an optimizer of one worker',
    ),
    (
      lambda: gl.local_updates(
        optax.sgd(0.1), outer=rounds_of(gl.PowerSGD(2)), every=2
      ),
      ValueError,
      'must not contain local_updates',
    ),
  ],
)
def test_what_is_in_the_wrong_place(make, kind, message):
  with pytest.raises(kind, match=message):
    make().init({'w': jnp.ones((6, 12))})


def test_a_foreign_state_and_averaged_gradients_are_refused():
  tx = rounds_of(gl.PowerSGD(2))
  params = {'w': jnp.ones((6, 12))}
  with pytest.raises(TypeError, match='must be a LocalUpdatesState, got a'):
    tx.update(params, optax.sgd(0.1).init(params), params)
  mesh, params, state, _ = on_mesh(2, tx)
  specs = gl.state_partition_specs(state, workers.AXIS)

  def averaged(params, state, x):
    grads = jax.tree.map(lambda p: p * x.mean(), params)
    grads = jax.lax.pmean(grads, workers.AXIS)
    return tx.update(grads, state, params)

  step = jax.shard_map(
    averaged,
    mesh=mesh,
    in_specs=(P(), specs, P(workers.AXIS)),
    out_specs=(P(), specs),
  )
  with pytest.raises(ValueError, match=r'already averaged.*local_params'):
    jax.eval_shape(step, params, state, batch_of(0, 2))


def test_a_fragment_may_hold_nothing_that_shrinks():
  params = {'w': jnp.ones((64, 64)), 'small': jnp.ones((4, 4))}
  outer = optax.chain(gl.compress_gradients(gl.PowerSGD(8), None), SGD)
  options = {'outer': outer, 'every': 4, 'fragments': 2}
  gl.local_updates(optax.sgd(0.1), **options).init(params)
  with pytest.raises(ValueError, match='Nothing would be compressed'):
    gl.local_updates(optax.sgd(0.1), **options).init(
      {'a': jnp.ones((4, 4)), 'b': jnp.ones((4, 4))}
    )


def test_a_moment_that_overflows_on_one_worker_stays_out_of_the_mean():
  average = optax.chain(gl.average_gradients(workers.AXIS), SGD)
  tx = gl.local_updates(
    optax.adam(0.1),
    outer=average,
    every=2,
    average_moments=1,
    axis_name=workers.AXIS,
  )
  params = {'w': jnp.ones(3)}
  step = workers.optimized(tx)
  state = gl.expand(tx.init(params), 2, exact=False)
  for gradient_of_one in (1e30, 1e30, 1.0, 1.0):  # Its square is infinite.
    grads = {'w': jnp.array([[1.0, 1, 1], [gradient_of_one, 1, 1]])}
    before = params
    params, state = step(params, state, grads)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.inner))
  assert (params['w'] < before['w']).all(), 'every coordinate still moves'


def test_the_count_for_all_workers_is_that_of_the_most_steps():
  """Moments of three steps need the bias correction of three."""
  outer = optax.chain(gl.average_gradients(workers.AXIS), SGD)
  tx = gl.local_updates(optax.adam(0.1), outer=outer, every=10)
  params = {'w': jnp.ones(3)}
  step = workers.optimized(tx)
  state = gl.expand(tx.init(params), 2, exact=False)
  for _ in range(3):
    grads = {'w': jnp.array([[jnp.nan, 1, 1], [1, 1, 1]])}
    params, state = step(params, state, grads)
  assert jax.tree.leaves(state.inner)[0].tolist() == [0, 3]
  assert jax.tree.leaves(gl.collapse(state, exact=False).inner)[0] == 3


def test_outer_may_keep_wider_numbers_than_the_parameters():
  params = {'w': jnp.ones((8, 16), jnp.bfloat16)}
  momentum = optax.sgd(0.7, momentum=0.9, accumulator_dtype=jnp.float32)
  tx = gl.local_updates(
    optax.sgd(0.1),
    outer=optax.chain(gl.average_gradients(None), momentum),
    every=1,
  )
  updates, _ = tx.update(params, tx.init(params), params)
  assert updates['w'].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ('axis_name', 'options', 'kind', 'message'),
  [
    (
      None,
      {'every': gl.SelSync(0.1)},
      ValueError,
      'needs the axis_name of all',
    ),
    ('dta', {'every': gl.SelSync(0.1)}, NameError, "'dta' is not bound here"),
    (
      'dta',
      {'every': 2, 'average_moments': 1},
      NameError,
      "'dta' is not bound here, only 'data'",
    ),
  ],
)
def test_what_communicates_by_itself_needs_all_workers(
  axis_name, options, kind, message
):
  tx = gl.local_updates(
    optax.adam(0.1),
    outer=optax.chain(gl.average_gradients(workers.AXIS), SGD),
    axis_name=axis_name,
    **options,
  )
  mesh = workers.mesh_of(2)
  params = {'w': jnp.ones((4, 4))}
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  loss_fn = lambda p, x: jnp.mean(x @ p['w'])
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  with pytest.raises(kind, match=message):
    step(params, state, jnp.ones((4, 4)))


def test_lordo_takes_selective_synchronization_and_no_parameters_at_all():
  tx = gl.lordo(1e-3, 2, None, every=gl.SelSync(0.1))
  params = {'w': jnp.ones((16, 16))}
  jax.eval_shape(tx.update, params, tx.init(params), params)
  empty = gl.lordo(1e-3, 2, None, every=2)
  assert empty.update({}, empty.init({}), {})[0] == {}
