"""What `make_train_step` takes: frozen leaves, keys, arguments, hierarchies."""

import flax.linen as nn
from flax.training import train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import workers

P = jax.sharding.PartitionSpec
AXIS = workers.AXIS
N = 4
RNG = np.random.default_rng(0)
PARAMS = {
  'w': jnp.asarray(RNG.normal(size=(8, 16)), jnp.float32),
  'b': jnp.zeros(16),
}
BATCH = jnp.asarray(RNG.normal(size=(2 * N, 8)), jnp.float32)
MESH = workers.mesh_of(N)
SEND = gl.compress_gradients(gl.PowerSGD(2), AXIS)
SEND_DCN = gl.compress_gradients(gl.PowerSGD(2), 'dcn')


def loss_fn(params, x, *args):
  y = x @ params['w'] + params['b'][None]
  return jnp.mean(jnp.tanh(y) ** 2) + sum(args, 0.0) * jnp.sum(params['b'])


def make(tx, **settings):
  loss = settings.pop('loss_fn', loss_fn)
  return gl.make_train_step(loss, tx, MESH, axis_name=AXIS, **settings)


def begin(tx, params=PARAMS):
  copies = jax.tree.map(jnp.copy, params)
  return copies, gl.init_state(tx, copies, MESH, axis_name=AXIS)


ADAM = optax.adam(1e-2)
LABELS = {'w': 'train', 'b': 'freeze'}
MASK = {'w': True, 'b': False}
FROZEN = {
  'partition': optax.partition(
    {'train': optax.chain(SEND, ADAM), 'freeze': optax.set_to_zero()}, LABELS
  ),
  'selective': optax.selective_transform(
    optax.chain(SEND, ADAM), freeze_mask={'w': False, 'b': True}
  ),
  'masked': optax.chain(
    optax.masked(optax.chain(SEND, ADAM), MASK),
    optax.masked(optax.set_to_zero(), {'w': False, 'b': True}),
  ),
  'afterwards': optax.chain(
    SEND,
    optax.partition({'train': ADAM, 'freeze': optax.set_to_zero()}, LABELS),
  ),
  'rule': optax.chain(
    gl.compress_gradients([('^b$', gl.Frozen()), ('', gl.PowerSGD(2))], AXIS),
    ADAM,
  ),
}


@pytest.mark.parametrize('name', FROZEN)
def test_frozen_leaves_stay_and_the_others_learn_as_usual(name):
  tx = FROZEN[name]
  step = make(tx)
  params, state = begin(tx)
  for _ in range(2):
    params, state, _ = step(params, state, BATCH)
  np.testing.assert_array_equal(params['b'], PARAMS['b'])
  assert float(jnp.abs(params['w'] - PARAMS['w']).min()) > 0
  sent = [
    x.size for x in gl.collectives(step.lower(params, state, BATCH).compile())
  ]
  # Factors of 8 x 16 at rank 2, the loss; 'afterwards' sends b before.
  assert sum(sent) == 2 * (8 + 16) + 1 + (16 if name == 'afterwards' else 0)


def test_a_frozen_matrix_sends_nothing():
  rules = [('^w$', gl.Frozen()), ('', gl.PowerSGD(2))]
  tx = gl.compress_gradients(rules, AXIS)
  plan = gl.plan(rules, PARAMS, num_workers=N)
  frozen = next(x for x in plan.leaves if x.path == 'w')
  assert (frozen.how, frozen.dense_bytes) == ('frozen', 0)
  assert plan.bytes_per_step == plan.dense_bytes == 64
  params, state = begin(tx)
  assert not jax.tree.leaves(state.error)
  sent = gl.collectives(make(tx).lower(params, state, BATCH).compile())
  assert sum(x.size for x in sent) == 16 + 1


def test_gradients_that_nobody_averages_are_not_taken_for_frozen():
  for tx in (
    optax.masked(SEND, MASK),
    optax.chain(optax.masked(SEND, MASK), optax.scale(-0.1)),
    optax.partition({'train': optax.sgd(0.1), 'freeze': SEND}, LABELS),
  ):
    params, state = begin(tx)
    with pytest.raises(ValueError, match='differs between workers, because'):
      make(tx).lower(params, state, BATCH)


def test_arguments_are_equal_on_all_workers():
  tx = optax.chain(SEND, optax.sgd(1.0))
  step = make(tx)
  params, state = begin(tx)
  params, state, _ = step(params, state, 0 * BATCH, jnp.array(2.0))
  np.testing.assert_allclose(params['b'], -2.0)


@pytest.mark.parametrize('accumulate_steps', [1, 2])
def test_every_worker_and_micro_batch_has_a_key_of_its_own(accumulate_steps):
  drawn = lambda params, x, key: (
    0.0 * (jnp.sum(params['b']) + jnp.sum(x)),
    jax.nn.one_hot(jax.random.randint(key, [], 0, 2**16), 2**16),
  )
  tx = optax.chain(SEND, optax.sgd(0.1))
  step = make(
    tx,
    loss_fn=drawn,
    has_aux=True,
    accumulate_steps=accumulate_steps,
    donate=False,
  )
  params, state = begin(tx)
  seen = [
    np.asarray(step(params, state, BATCH, key=jax.random.key(i))[2][1])
    for i in (0, 0, 1)
  ]
  np.testing.assert_array_equal(seen[0], seen[1])
  assert (seen[0] != seen[2]).any()
  # The mean of one-hot draws: as many different ones as there are keys.
  assert (seen[0] > 0).sum() == N * accumulate_steps


def test_a_compiled_step_takes_the_same_arguments():
  tx = optax.chain(SEND, optax.sgd(0.1))
  step = make(tx, donate=False)
  drops = make(
    tx,
    donate=False,
    loss_fn=lambda p, x, key: loss_fn(p, jax.random.bernoulli(key) * x),
  )
  params, state = begin(tx)
  params, state, _ = step(params, state, BATCH)
  batch = jax.device_put(BATCH, jax.sharding.NamedSharding(MESH, P(AXIS)))
  everywhere = jax.sharding.NamedSharding(MESH, P())
  key = jax.device_put(jax.random.key(0), everywhere)
  for function, given in (step, {}), (drops, {'key': key}):
    compiled = function.lower(params, state, BATCH, **given).compile()
    got = compiled(params, state, batch, **given)
    wanted = function(params, state, BATCH, **given)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_without_donation_arguments_can_be_used_again():
  tx = optax.chain(SEND, optax.sgd(0.1))
  step = make(tx, donate=False)
  params, state = begin(tx)
  placed = step(params, state, BATCH)[:2]
  first, again = (step(*placed, BATCH) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.mark.parametrize('name', ['params', 'opt_state'])
def test_donated_arguments_cannot_be_used_again(name):
  tx = optax.chain(SEND, optax.adam(0.1))
  step = make(tx)
  given = dict(zip(('params', 'opt_state'), begin(tx), strict=True))
  *given_next, _ = step(*given.values(), BATCH)
  result = dict(zip(given, given_next, strict=True))
  *_, _ = step(*result.values(), BATCH)
  fresh = dict(zip(given, begin(tx), strict=True)) | {name: result[name]}
  with pytest.raises(ValueError, match=f'{name} must be what the last step'):
    step(*fresh.values(), BATCH)


def test_diagnostics_find_the_compressor_by_themselves():
  tx = optax.chain(SEND, optax.clip_by_global_norm(1.0), ADAM)
  params, state = begin(tx)
  _, _, (_, seen) = make(tx, diagnose=True)(params, state, BATCH)
  assert 0 < float(seen.captured_energy) < 1
  with pytest.raises(TypeError, match='diagnose must be True or False'):
    make(tx, diagnose=gl.PowerSGD(2))


@pytest.mark.parametrize('name', ['partition', 'rule'])
def test_diagnostics_with_frozen_leaves(name):
  tx = FROZEN[name]
  params, state = begin(tx)
  _, _, (_, seen) = make(tx, diagnose=True)(params, state, BATCH)
  assert 0 < float(seen.captured_energy) < 1


def grid():
  devices = np.array(jax.devices()[:4]).reshape(2, 2)
  return jax.sharding.Mesh(devices, ('dcn', 'ici'))


def hierarchical_step(tx, mesh, state):
  specs = gl.state_partition_specs(state, 'dcn')
  both = ('dcn', 'ici')

  def local(params, state, x):
    _, grads = gl.value_and_local_grad(loss_fn, both)(params, x)
    return tx.update(grads, state, params)

  return jax.jit(
    jax.shard_map(
      local, mesh=mesh, in_specs=(P(), specs, P(both)), out_specs=(P(), specs)
    )
  )


def test_a_dense_mean_over_a_fast_axis_comes_before_compression():
  mesh = grid()
  tx = optax.chain(gl.average_gradients('ici'), SEND_DCN)
  state = gl.init_state(tx, PARAMS, mesh, axis_name='dcn')
  step = hierarchical_step(tx, mesh, state)
  updates, new_state = step(PARAMS, state, BATCH)
  # The same as two workers with the batches of two devices each.
  flat = gl.compress_gradients(gl.PowerSGD(2), AXIS)
  two = workers.mesh_of(2)
  wanted = gl.init_state(flat, PARAMS, two, axis_name=AXIS)
  specs = gl.state_partition_specs(wanted, AXIS)

  def local(params, state, x):
    _, grads = gl.value_and_local_grad(loss_fn, AXIS)(params, x)
    return flat.update(grads, state, params)

  expected, wanted = jax.jit(
    jax.shard_map(
      local, mesh=two, in_specs=(P(), specs, P(AXIS)), out_specs=(P(), specs)
    )
  )(PARAMS, wanted, BATCH)
  for name in PARAMS:
    assert workers.relative(updates[name], expected[name]) < 1e-5
  error, other = new_state[1].error['w'], wanted.error['w']
  assert error.shape == (2, 8, 16)
  assert workers.relative(error, other) < 1e-5
  compiled = step.lower(PARAMS, state, BATCH).compile()
  across = [x.size for x in gl.collectives(compiled) if x.axes == ('dcn',)]
  assert sum(across) == 2 * (8 + 16) + 16


def test_a_nan_in_one_group_of_a_hierarchy_is_agreed_on_by_all():
  mesh = grid()
  tx = optax.chain(gl.average_gradients('ici'), SEND_DCN)
  state = gl.init_state(tx, PARAMS, mesh, axis_name='dcn')
  updates, new_state = hierarchical_step(tx, mesh, state)(
    PARAMS, state, BATCH.at[0].set(jnp.nan)
  )
  assert all(bool(jnp.isnan(x).all()) for x in jax.tree.leaves(updates))
  assert int(new_state[1].count) == 0
  np.testing.assert_array_equal(new_state[1].error['w'], 0)


def test_a_batch_over_an_inner_axis_makes_the_same_hierarchy():
  """`make_train_step` leaves the fast axis to the partitioner."""
  devices = np.array(jax.devices()[:4]).reshape(2, 2)
  mesh = jax.sharding.Mesh(
    devices, ('dcn', 'ici'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  tx = optax.chain(SEND_DCN, optax.sgd(1.0))
  state = gl.init_state(tx, PARAMS, mesh, axis_name='dcn')
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name='dcn', donate=False)
  both = jax.sharding.NamedSharding(mesh, P(('dcn', 'ici')))
  new, _, _ = step(PARAMS, state, jax.device_put(BATCH, both))
  alone, _, _ = step(PARAMS, state, BATCH)
  for name in PARAMS:
    assert workers.relative(new[name], alone[name]) < 1e-5


def test_linens_train_state_with_a_python_number_in_it():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(16)(x)

  net = Net()
  tx = optax.chain(SEND, optax.sgd(0.1))
  state = train_state.TrainState.create(
    apply_fn=net.apply,
    tx=tx,
    params=net.init(jax.random.key(0), BATCH)['params'],
  )
  assert state.step == 0
  specs = gl.state_partition_specs(state, AXIS)
  placed = jax.device_put(
    gl.expand(state, N),
    jax.tree.map(lambda x: jax.sharding.NamedSharding(MESH, x), specs),
  )

  def local(state, x):
    loss_fn = lambda p: jnp.mean(state.apply_fn({'params': p}, x) ** 2)
    _, grads = gl.value_and_local_grad(loss_fn, AXIS)(state.params)
    return state.apply_gradients(grads=grads)

  step = jax.jit(
    jax.shard_map(local, mesh=MESH, in_specs=(specs, P(AXIS)), out_specs=specs)
  )
  new = step(placed, BATCH)
  assert int(new.step) == 1
  assert gl.collapse(new).opt_state[0].error['Dense_0']['kernel'].shape == (
    1,
    8,
    16,
  )


def test_numpy_scalars_are_numbers():
  tx = gl.greedylore(
    np.int64(2),
    AXIS,
    update_interval=np.int32(5),
    probes=np.int8(2),
    min_compression_rate=np.float32(1.0),
    seed=np.uint32(3),
  )
  assert tx.init(PARAMS).error['w'].shape == (1, 8, 16)
  assert gl.Quantize(bits=np.int64(4)).bits == 4


def test_integer_and_python_leaves_are_averaged_without_a_warning():
  params = {'w': jnp.ones((8, 16)), 'steps': jnp.array(3), 'scale': 1.0}
  tx = gl.compress_gradients(gl.PowerSGD(2), None)
  updates, _ = tx.update(params, tx.init(params))
  assert updates['steps'].dtype == params['steps'].dtype
  assert int(updates['steps']) == 3
  assert float(updates['scale']) == 1.0


def test_hyperparameters_can_be_injected_into_tsr_adam():
  with pytest.raises(TypeError, match='list this argument in its static_args'):
    optax.inject_hyperparams(gl.tsr_adam, static_args=('rank', 'axis_name'))(
      learning_rate=0.1, rank=2, axis_name=None
    ).init(PARAMS)
  static = (
    'rank',
    'axis_name',
    'update_interval',
    'embedding_update_interval',
    'oversampling',
    'power_iterations',
    'min_compression_rate',
    'seed',
  )
  tx = optax.inject_hyperparams(gl.tsr_adam, static_args=static)(
    learning_rate=optax.linear_schedule(0.1, 0.0, 2),
    rank=2,
    axis_name=None,
    weight_decay=0.1,
  )
  state = tx.init(PARAMS)
  update = jax.jit(tx.update)
  norms = []
  for _ in range(3):
    updates, state = update(PARAMS, state, PARAMS)
    norms.append(float(optax.tree.norm(updates)))
  assert norms[0] > norms[1] > norms[2] == 0
