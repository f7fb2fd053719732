"""Are leaves refreshed one after the other, and is that all that changes?"""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
from greedylore_jax._src.engine.policy import Policy
import workers

SHAPES = {
  'bias': (5,),
  'deep': (2, 8, 12),
  'u': (12, 8),
  'v': (12, 8),
  'w': (8, 12),
}
INTERVAL, START, N = 6, 2, 2
METHOD = lambda interval: gl.GreedyLore(2, interval, probes=2)
# Its refresh takes two rounds and random numbers.
SKETCHED = lambda interval: gl.GreedyLore(2, interval, basis_size=4)


def schedule_of(rules, shapes=SHAPES, start_step=START):
  policy = Policy(rules, start_step, min_compression_rate=0, stagger=True)
  return policy.schedule(policy.leaves(workers.zeros(shapes)))


def turns_of(schedule, steps):
  """Leaf -> the steps in which it has its turn."""
  turns = {}
  for step in range(steps):
    members = schedule.members(schedule.at(step))
    if members:
      leaf = int(schedule.turn(jnp.array(step)))
      assert leaf in members
      turns.setdefault(leaf, []).append(step)
  return turns


def test_every_leaf_has_its_turn_once_in_its_interval():
  schedule = schedule_of(METHOD(INTERVAL))
  turns = turns_of(schedule, START + 4 * INTERVAL)
  assert sorted(turns) == [1, 2, 3, 4]
  for steps in turns.values():
    assert {b - a for a, b in itertools.pairwise(steps)} == {INTERVAL}
  assert len({step for steps in turns.values() for step in steps}) == sum(
    map(len, turns.values())
  )
  assert schedule.phases == [
    'warmup',
    'refresh',
    'compress',
    'refresh_one_2x8x12',
    'refresh_one_12x8',
    'refresh_one_8x12',
  ]
  later = range(START + INTERVAL, START + 2 * INTERVAL)
  counted = collections.Counter(map(schedule.at, later))
  assert schedule.lasting() == {x: n / INTERVAL for x, n in counted.items()}


def test_one_leaf_that_is_refreshed_in_every_step():
  """No step is left in which it is compressed."""
  shapes = {'bias': (5,), 'w': (8, 12)}
  schedule = schedule_of(METHOD(1), shapes)
  assert schedule.lasting() == {'refresh_one_8x12': 1}
  grads = {x: jnp.ones(shape) for x, shape in shapes.items()}
  tx = gl.compress_gradients(
    METHOD(1), None, min_compression_rate=0, stagger=True
  )
  state = tx.init(grads)
  for _ in range(2):
    updates, state = tx.update(grads, state)
    np.testing.assert_allclose(updates['w'], 1, rtol=1e-6)


def test_the_phase_is_the_same_when_traced():
  schedule = schedule_of(METHOD(INTERVAL))
  steps = START + 2 * INTERVAL
  indices = jax.vmap(schedule.index)(jnp.arange(steps))
  names = [schedule.phases[i] for i in indices]
  assert names == [schedule.at(step) for step in range(steps)]


def test_leaves_of_different_intervals_never_meet():
  rules = [('deep', gl.GreedyLore(2, 2)), ('', gl.GreedyLore(2, 8))]
  turns = turns_of(schedule_of(rules), START + 24)
  assert {b - a for a, b in itertools.pairwise(turns[1])} == {2}
  for leaf in (2, 3, 4):
    assert {b - a for a, b in itertools.pairwise(turns[leaf])} == {8}
    assert not set(turns[leaf]) & set(turns[1])


@pytest.mark.parametrize(
  'rules',
  [METHOD(3), [('deep', gl.GreedyLore(2, 1)), ('', gl.GreedyLore(2, 9))]],
)
def test_too_many_leaves_for_their_interval_are_refused(rules):
  with pytest.raises(ValueError, match=r'4 leaves .* raise update_interval'):
    schedule_of(rules)


def test_leaves_of_one_shape_but_different_methods_have_phases_of_their_own():
  rules = [('^u', gl.GreedyLore(2, 6)), ('', gl.GreedyLore(3, 6))]
  phases = schedule_of(rules).phases
  assert 'refresh_one_12x8' in phases
  assert 'refresh_one_12x8_2' in phases


def test_a_step_is_a_refresh_for_one_and_a_compressed_one_for_the_others():
  """Against the same method whose leaves are all refreshed, or none is."""
  shapes = {'bias': (5,), 'u': (12, 8), 'v': (12, 8)}
  options = {'start_step': START, 'min_compression_rate': 0}
  make = lambda interval, **more: gl.compress_gradients(
    SKETCHED(interval), workers.AXIS, **options, **more
  )
  staggered = make(INTERVAL, stagger=True)
  update, all_refreshed, none_refreshed = (
    workers.simulated(tx, N) for tx in (staggered, make(1), make(10_000))
  )
  schedule = schedule_of(SKETCHED(INTERVAL), shapes)
  state = workers.fresh(staggered, shapes, N)
  for step in range(START + INTERVAL + 2):
    grads = workers.random_grads(shapes, N, seed=step)
    refreshed = all_refreshed(grads, state)
    compressed = none_refreshed(grads, state)
    updates, new = update(grads, state)
    phase = schedule.at(step)
    for i, leaf in enumerate(shapes):
      turn = schedule.members(phase) and i == schedule.turn(state.count)
      want = refreshed if turn or phase == 'refresh' else compressed
      for ours, theirs in (
        (updates, want[0]),
        (new.error, want[1].error),
        (new.compressor_state, want[1].compressor_state),
      ):
        jax.tree.map(
          lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-5),
          ours[leaf],
          theirs[leaf],
        )
    state = new
  bad = grads | {'bias': grads['bias'] * np.nan}
  updates, after = update(bad, state)
  assert all(np.isnan(x).all() for x in updates.values())
  jax.tree.map(np.testing.assert_array_equal, after, state)  # And the turn.


def test_no_step_sends_more_than_a_compressed_one_and_a_leaf():
  plan = gl.plan(
    METHOD(INTERVAL),
    workers.zeros(SHAPES),
    min_compression_rate=0,
    stagger=True,
  )
  largest = max(leaf.dense_bytes for leaf in plan.leaves)
  sent = [plan.bytes_in(plan.phase_at(step)) for step in range(1, 20)]
  assert max(sent) == plan.bytes_in('compress') + largest
  assert max(sent) < plan.bytes_in('refresh')
  together = gl.plan(
    METHOD(INTERVAL), workers.zeros(SHAPES), min_compression_rate=0
  )
  # On average they send as much, but for the compressed form of the one whose
  # turn it is.
  assert plan.bytes_per_step == pytest.approx(
    together.bytes_per_step + (plan.bytes_in('compress') - 4 * 5) / INTERVAL
  )


def test_compiled_collectives_are_the_plan():
  options = {'min_compression_rate': 0, 'stagger': True}
  params = workers.zeros({'u': (12, 8), 'v': (12, 8)})
  plan = gl.plan(SKETCHED(INTERVAL), params, num_workers=4, **options)
  tx = gl.compress_gradients(SKETCHED(INTERVAL), workers.AXIS, **options)
  sent = {}
  for c in gl.collectives(workers.compiled_update(tx, params)):
    sent.setdefault(c.phase, []).append((c.kind, c.dtype, c.size))
  assert sent == plan.rounds
  # The scores with the sketch, the factors with what the sketch spans.
  assert plan.rounds['refresh_one_12x8'] == [
    ('all-reduce', 'float32', 2 * 4 * 4 + 8 * 4),
    ('all-reduce', 'float32', 2 * 12 * 2 + 12 * 4),
  ]
