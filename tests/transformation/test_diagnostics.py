"""Are the numbers that are shown those of the states, and free?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import workers

N = 2
SHAPES = {'w': (6, 12), 'bias': (5,)}


def start(method, shapes=SHAPES, **options):
  """A step whose gradients are the batch, and what it starts from."""
  tx = optax.chain(
    gl.compress_gradients(method, workers.AXIS, **options), optax.sgd(0.0)
  )
  mesh = workers.mesh_of(N)
  params = workers.zeros(shapes)
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  loss_fn = lambda p, batch: sum(
    jnp.sum(p[name] * batch[name][0]) for name in p
  )
  step = gl.make_train_step(
    loss_fn, tx, mesh, axis_name=workers.AXIS, diagnose=True
  )
  return step, params, state


def test_energies_and_drift_are_those_of_the_states():
  step, params, state = start(gl.GreedyLore(2, update_interval=3))
  drifts = []
  for i in range(7):
    grads = workers.random_grads(SHAPES, N, seed=i)
    before = jax.tree.map(np.asarray, state[0])
    params, state, (loss, seen) = step(params, state, grads)
    assert loss == 0
    h = grads['w'] + before.error['w']
    kept = np.asarray(state[0].error['w'])
    share = 1 - np.sum(kept**2) / np.sum(h**2)
    ratio = np.linalg.norm(kept) / np.linalg.norm(grads['w'])
    np.testing.assert_allclose(seen.captured_energy, share, atol=1e-5)
    np.testing.assert_allclose(seen.error_to_gradient, ratio, atol=1e-5)
    was, now = (x.compressor_state['w'][0, :, :2] for x in (before, state[0]))
    drift = 1 - np.sum((was.T @ now) ** 2) / 2
    np.testing.assert_allclose(seen.basis_drift, drift, atol=1e-5)
    for whole, (of_leaf,) in zip(seen[:3], seen.by_leaf[:3], strict=True):
      np.testing.assert_allclose(of_leaf, whole, atol=1e-6)
    drifts.append(float(seen.basis_drift))
  assert [drift > 1e-3 for drift in drifts] == [
    True,
    False,
    False,
    True,
    False,
    False,
    True,
  ]


def test_those_of_a_leaf_are_its_own():
  """As if it were the only one, in the order of the plan."""
  shapes = {'x': (6, 12), 'y': (8, 10), 'z': (5,)}
  method = gl.PowerSGD(2)
  step, params, state = start(method, shapes=shapes)
  batch = workers.random_grads(shapes, N, seed=0)
  params, state, _ = step(params, state, batch)
  _, _, (_, seen) = step(params, state, batch)
  leaves = gl.plan(method, workers.zeros(shapes)).leaves
  assert [x.path for x in leaves if x.compressed] == ['x', 'y']
  for i, name in enumerate('xy'):
    step, params, state = start(method, shapes={name: shapes[name]})
    own = {name: batch[name]}
    params, state, _ = step(params, state, own)
    _, _, (_, alone) = step(params, state, own)
    for number, of_leaves in zip(alone[:2], seen.by_leaf[:2], strict=True):
      np.testing.assert_allclose(of_leaves[i], number, rtol=1e-4)
  assert abs(seen.by_leaf.captured_energy[0] - seen.captured_energy) > 1e-3


def test_they_travel_with_the_loss():
  """Three numbers of the only matrix, in the message of the loss."""
  step, params, state = start(gl.PowerSGD(2))
  batch = workers.random_grads(SHAPES, N, seed=0)
  compiled = step.lower(params, state, batch).compile()
  beside = [c.size for c in gl.collectives(compiled) if c.phase is None]
  rounds = [c.size for c in gl.collectives(compiled) if c.phase]
  plan = gl.plan(gl.PowerSGD(2), params, num_workers=N)
  # XLA may combine the loss with a round of a program that has one phase only.
  planned = sum(sent.size for sent in plan.rounds['compress'])
  assert sum(beside) + sum(rounds) == planned + 1 + 3
  _, _, (_, seen) = step(params, state, batch)
  assert np.isnan(seen.basis_drift), 'there is no basis'


@pytest.mark.parametrize(
  ('link', 'message'),
  [
    (
      optax.stateless(lambda g, _: jax.lax.pmean(g, workers.AXIS)),
      r'exactly one.*found 0',
    ),
    (
      gl.compress_gradients(gl.PowerSGD(2), workers.AXIS, error_feedback=False),
      'error_feedback=False keeps none',
    ),
  ],
)
def test_they_need_errors_to_look_at(link, message):
  tx = optax.chain(link, optax.sgd(0.1))
  step = gl.make_train_step(
    lambda p, x: jnp.sum(p['w']) + x.mean(),
    tx,
    workers.mesh_of(N),
    axis_name=workers.AXIS,
    diagnose=True,
  )
  params = {'w': jnp.ones((6, 12))}
  with pytest.raises(ValueError, match=message):
    step(params, tx.init(params), jnp.ones(N))


def test_the_share_that_is_sent_counts_what_error_decay_left():
  step, params, state = start(gl.TopK(0.25), error_decay=0.5)
  for i in range(3):
    grads = workers.random_grads(SHAPES, N, seed=i)
    before = np.asarray(state[0].error['w'])
    params, state, (_, seen) = step(params, state, grads)
    h = grads['w'] + 0.5 * before
    share = 1 - np.sum(np.square(state[0].error['w'])) / np.sum(h**2)
    np.testing.assert_allclose(seen.captured_energy, share, atol=1e-5)
