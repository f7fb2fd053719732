"""Does each leaf get the method that the list of patterns gives it?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'embedding': (40, 8), 'query': (8, 12), 'up': (8, 20), 'gain': (8,)}
RULES = [
  ('embed', gl.GreedyLore(2, update_interval=2)),
  ('query', gl.PowerSGD(2)),
  ('', gl.GreedyLore(3, update_interval=4)),
]
OPTIONS = {'start_step': 1, 'min_compression_rate': 0}


def test_every_leaf_takes_the_steps_of_its_own_method():
  """All leaves together, as each alone with its own method."""
  n = 2
  tx = gl.compress_gradients(RULES, workers.AXIS, **OPTIONS)
  update = workers.simulated(tx, n)
  state = workers.fresh(tx, SHAPES, n)
  names = sorted(SHAPES)  # Flattening order, which seeds depend on.
  alone = {}
  for name, rule in (('embedding', 0), ('query', 1), ('up', 2)):
    method = [(f'^{name}$', RULES[rule][1]), ('', gl.Dense())]
    one = gl.compress_gradients(method, workers.AXIS, **OPTIONS)
    alone[name] = (workers.simulated(one, n), workers.fresh(one, SHAPES, n))
  assert names == ['embedding', 'gain', 'query', 'up']
  for step in range(7):
    grads = workers.random_grads(SHAPES, n, seed=step)
    updates, state = update(grads, state)
    for name, (update_one, state_one) in alone.items():
      want, state_one = update_one(grads, state_one)
      alone[name] = update_one, state_one
      np.testing.assert_allclose(
        updates[name], want[name], atol=1e-5, err_msg=f'{name}, step {step}'
      )


def test_what_is_sent_is_planned_in_every_phase():
  params = workers.zeros(SHAPES)
  plan = gl.plan(RULES, params, num_workers=4, **OPTIONS)
  tx = gl.compress_gradients(RULES, workers.AXIS, **OPTIONS)
  sent = {}
  for c in gl.collectives(workers.compiled_update(tx, params)):
    sent.setdefault(c.phase, []).append((c.kind, c.dtype, c.size))
  assert sent == plan.rounds
  assert sent.keys() == {'warmup', 'refresh', 'refresh_2', 'compress'}
  # PowerSGD's own two rounds continue while the others refresh.
  assert len(sent['refresh']) == 2
  of = plan.bytes_in
  assert (
    plan.bytes_per_step
    == (of('refresh') + of('refresh_2') + 2 * of('compress')) / 4
  )


@pytest.mark.parametrize(
  ('rules', 'message'),
  [
    (
      [('embd', gl.PowerSGD(2)), ('', gl.PowerSGD(1))],
      "'embd' in the list of compressors matches no leaf.*; they are embedding",
    ),
    ([('embed', gl.PowerSGD(2))], "No pattern matches the matrix 'query'"),
  ],
)
def test_patterns_that_do_not_fit(rules, message):
  tx = gl.compress_gradients(rules, None)
  with pytest.raises(ValueError, match=message):
    tx.init(workers.zeros(SHAPES))


def test_patterns_of_what_is_no_compressor():
  message = r"a list of \(pattern, compressor\), got '32'"
  with pytest.raises(TypeError, match=message):
    gl.compress_gradients([('', '32')], None)


def test_one_compressor_and_one_rule_are_the_same():
  grads = jax.tree.map(
    lambda g: jnp.asarray(g[0]), workers.random_grads(SHAPES, 1, seed=0)
  )
  updates = []
  for method in (gl.RangeFinder(2), [('', gl.RangeFinder(2))]):
    tx = gl.compress_gradients(method, None)
    updates.append(jax.jit(tx.update)(grads, tx.init(grads))[0])
  for a, b in zip(*map(jax.tree.leaves, updates), strict=True):
    np.testing.assert_array_equal(a, b)
