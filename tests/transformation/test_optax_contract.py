"""Is it a good citizen of optax? Whatever a transformation is used in."""

import jax
import jax.numpy as jnp
import optax
import pytest

import greedylore_jax as gl
import workers

PARAMS = {
  'block': {'w': jnp.ones((8, 16)), 'b': jnp.ones(16)},
  'scale': jnp.ones(()),
}


def link(**options):
  return gl.greedylore(2, None, update_interval=3, **options)


def grads_like(params, seed=0):
  keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params)))
  leaves, treedef = jax.tree.flatten(params)
  return treedef.unflatten(
    [
      jax.random.normal(k, x.shape, x.dtype)
      for k, x in zip(keys, leaves, strict=True)
    ]
  )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_have_structure_shapes_and_dtypes_of_the_gradients(dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
  tx = link()
  state = tx.init(params)
  update = jax.jit(tx.update)
  for step in range(5):
    grads = grads_like(params, step)
    updates, new_state = update(grads, state)
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    for u, g in zip(
      jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True
    ):
      assert (u.shape, u.dtype) == (g.shape, g.dtype)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(new_state) == shapes(state)
    state = new_state
  assert update._cache_size() == 1, 'a phase compiled a program of its own'


def test_the_error_is_found_by_name_and_empty_where_nothing_is_compressed():
  tx = optax.chain(link(), optax.adam(0.1))
  error = optax.tree.get(tx.init(PARAMS), 'error')
  assert error['block']['w'].shape == (1, 8, 16)
  assert error['block']['b'] == error['scale'] == optax.MaskedNode()


@pytest.mark.parametrize(
  'behind',
  [
    optax.sgd(0.1, momentum=0.9),
    optax.adamw(0.1),
    optax.lion(0.1),
    optax.contrib.muon(0.1),
    optax.adafactor(0.1),
    optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
  ],
  ids=['momentum', 'adamw', 'lion', 'muon', 'adafactor', 'inject'],
)
def test_any_optimizer_behind_it(behind):
  params = {'w': jnp.ones((8, 16)), 'b': jnp.ones(16)}
  tx = optax.chain(link(), behind)
  state = tx.init(params)
  step = jax.jit(tx.update)
  for i in range(4):
    updates, state = step(grads_like(params, i), state, params)
    params = optax.apply_updates(params, updates)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(params))


def test_extra_arguments_pass_by():
  tx = optax.chain(link(), optax.contrib.reduce_on_plateau())
  state = tx.init(PARAMS)
  updates, _ = tx.update(grads_like(PARAMS), state, PARAMS, value=1.0)
  assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


def test_named_chain_and_specs_inside_it():
  tx = optax.named_chain(('compress', link()), ('adam', optax.adam(0.1)))
  state = tx.init(PARAMS)
  specs = gl.state_partition_specs(state, 'data')
  p = jax.sharding.PartitionSpec
  assert specs['compress'].error['block']['w'] == p('data')
  assert specs['compress'].count == p()
  assert set(jax.tree.leaves(specs['adam'])) == {p()}


def test_masked():
  mask = {'block': True, 'scale': False}
  tx = optax.masked(link(), mask)
  state = tx.init(PARAMS)
  grads = grads_like(PARAMS)
  updates, state = tx.update(grads, state)
  assert updates['scale'] == grads['scale']
  expanded = gl.expand(gl.collapse(state), 3)
  assert optax.tree.get(expanded, 'error')['block']['w'].shape == (3, 8, 16)


def test_an_empty_tree():
  tx = link()
  updates, _ = tx.update({}, tx.init({}))
  assert updates == {}


@pytest.mark.parametrize(
  'method',
  [gl.GreedyLore(2), gl.PowerSGD(2), gl.RandomK(0.1), gl.TopK(0.1, 'own')],
  ids=repr,
)
def test_a_leaf_with_nothing_in_it_stays_dense(method):
  params = {'none': jnp.ones((0, 16)), 'w': jnp.ones((8, 16))}
  tx = gl.compress_gradients(method, None)
  updates, _ = tx.update(params, tx.init(params))
  assert updates['none'].shape == (0, 16)


def test_abstract_evaluation():
  tx = link()
  state = jax.eval_shape(tx.init, PARAMS)
  updates, _ = jax.eval_shape(tx.update, PARAMS, state)
  assert updates['block']['w'].shape == (8, 16)


def test_scores_of_another_seed_are_other_scores():
  params = {'w': jnp.ones((8, 16))}
  outcomes = []
  for seed in (0, 0, 1):
    tx = link(seed=seed)
    state = tx.init(params)
    for i in range(2):
      updates, state = tx.update(grads_like(params, i), state)
    outcomes.append(updates['w'])
  assert workers.relative(outcomes[0], outcomes[1]) == 0
  assert workers.relative(outcomes[0], outcomes[2]) > 0.1
