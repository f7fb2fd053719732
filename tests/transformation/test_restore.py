"""Does a saved state continue, or is it refused by name?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
import workers

PARAMS = {'w': jnp.ones((8, 16)), 'b': jnp.ones(16)}


def chain(compressor, **settings):
  compress = gl.compress_gradients(compressor, workers.AXIS, **settings)
  return optax.chain(compress, optax.sgd(0.1, momentum=0.9))


def stored(tx, n=4):
  """A state as n workers leave it, with errors that differ between them."""
  rng = np.random.default_rng(0)
  state = gl.expand(tx.init(PARAMS), n, exact=False)
  fill = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)
  compressed = state[0]._replace(
    error=jax.tree.map(fill, state[0].error),
    compressor_state=jax.tree.map(fill, state[0].compressor_state),
    count=jnp.array(7, jnp.int32),
  )
  return (compressed, *state[1:])


def place(saved, n, tx=None, **settings):
  return gl.place_state(
    saved,
    workers.mesh_of(n),
    axis_name=workers.AXIS,
    tx=tx,
    params=PARAMS,
    **settings,
  )


def traced(tx, state, n=4):
  """Traces a step of `tx` from this state."""
  step = gl.make_train_step(
    lambda p, x: jnp.mean((x @ p['w'] + p['b'][None]) ** 2),
    tx,
    workers.mesh_of(n),
    axis_name=workers.AXIS,
  )
  step.lower(PARAMS, state, jnp.ones((n, 8)))


def untyped(tree):
  """As a checkpoint comes back without a template: dicts and lists."""
  if hasattr(tree, '_asdict'):
    return {k: untyped(v) for k, v in tree._asdict().items()}
  if isinstance(tree, tuple):
    return [untyped(x) for x in tree]
  if isinstance(tree, dict):
    return {k: untyped(v) for k, v in tree.items()}
  return tree


FLOAT = chain(gl.PowerSGD(4))
INT8 = chain(gl.PowerSGD(4), factor_dtype='int8')
PAIRS = {
  'rank down': (chain(gl.PowerSGD(5)), FLOAT, r"'w' must be .*\[1,16,4\]"),
  'rank up': (FLOAT, chain(gl.PowerSGD(5)), r"'w' must be .*\[1,16,5\]"),
  'cores': (chain(gl.TSR(2)), chain(gl.TSR(4)), "compressor state of 'w'"),
  'method': (chain(gl.GreedyLore(4)), FLOAT, "compressor state of 'w'"),
  'no basis': (chain(gl.TopK(0.1)), chain(gl.GreedyLore(4)), 'got nothing'),
  'dense': (FLOAT, chain(gl.Dense()), "unsent error for 'w'"),
  'compressed': (chain(gl.Dense()), FLOAT, "no error for 'w'"),
  'feedback': (
    chain(gl.PowerSGD(4), error_feedback=False),
    FLOAT,
    "no error for 'w'",
  ),
  'dtype': (
    chain(gl.PowerSGD(4), error_dtype='bfloat16'),
    FLOAT,
    'error_dtype has changed',
  ),
  'integers': (FLOAT, INT8, 'needs a NonlinearCompressState'),
  'floats': (INT8, FLOAT, 'needs a CompressState'),
  'signs': (chain(gl.RandomK(0.5)), chain(gl.Sign()), 'Nonlinear'),
}


@pytest.mark.parametrize('name', PAIRS)
def test_a_state_of_another_configuration_is_refused_by_name(name):
  before, after, message = PAIRS[name]
  with pytest.raises(ValueError, match=message) as caught:
    traced(after, stored(before))
  assert 'gl.place_state' in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'name', sorted(PAIRS.keys() - {'integers', 'floats', 'signs'})
)
def test_placing_refuses_what_cannot_continue_exactly(name):
  before, after, _ = PAIRS[name]
  saved = gl.collapse(stored(before))
  with pytest.raises(ValueError, match=r'saved state'):
    place(saved, 2, after)


@pytest.mark.parametrize('name', PAIRS)
def test_placing_inexactly_keeps_what_fits(name):
  before, after, _ = PAIRS[name]
  saved = stored(before)
  placed = place(saved, 4, after, exact=False)
  traced(after, placed)
  assert int(placed[0].count) == 7
  old, new = saved[0].error['w'], placed[0].error['w']
  if isinstance(old, optax.MaskedNode) or isinstance(new, optax.MaskedNode):
    return
  mean = lambda x: np.asarray(x, np.float32).mean(0)
  assert workers.relative(mean(new), mean(old)) < 5e-3  # bfloat16 has 8 bits.


def test_linear_errors_continue_with_integers_on_any_number_of_workers():
  saved = gl.collapse(stored(FLOAT))
  placed = place(saved, 2, INT8)
  assert gl.collapse(placed)[0].error['w'].shape == (2, 8, 16)
  for error in np.asarray(placed[0].error['w']):
    np.testing.assert_array_equal(error, saved[0].error['w'][0])
  traced(INT8, placed, 2)


def test_errors_of_integers_continue_in_full_precision_as_their_mean():
  saved = gl.collapse(stored(INT8))
  assert saved[0].error['w'].shape == (4, 8, 16)
  placed = place(saved, 8, FLOAT)
  assert gl.collapse(placed)[0].error['w'].shape == (1, 8, 16)
  mean = saved[0].error['w'].mean(0)
  assert workers.relative(placed[0].error['w'][5], mean) < 1e-6


def test_nonlinear_errors_need_their_number_of_workers_or_consent():
  saved = gl.collapse(stored(INT8))
  with pytest.raises(ValueError, match=r'4 workers.*so 2 workers cannot'):
    place(saved, 2, INT8)
  placed = place(saved, 2, INT8, exact=False)
  mean = saved[0].error['w'].mean(0)
  assert workers.relative(placed[0].error['w'][1], mean) < 1e-6


@pytest.mark.parametrize('tx', [FLOAT, INT8], ids=['linear', 'nonlinear'])
def test_a_state_without_types_gets_them_back(tx):
  saved = gl.collapse(stored(tx))
  lost = untyped(jax.device_get(saved))
  placed, wanted = place(lost, 4, tx), place(saved, 4, tx)
  assert jax.tree.structure(placed) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, placed, wanted)
  for use in (gl.collapse, lambda x: gl.expand(x, 4), lambda x: place(x, 4)):
    with pytest.raises(TypeError, match='restored without a template'):
      use(lost)


def test_a_missing_or_additional_entry_is_named():
  saved = untyped(jax.device_get(gl.collapse(stored(FLOAT))))
  del saved[1]
  with pytest.raises(ValueError, match=r"'1/0/trace/b', got nothing"):
    place(saved, 2, FLOAT)
  more = (*gl.collapse(stored(FLOAT)), {'more': jnp.ones(3)})
  with pytest.raises(ValueError, match=r'must have 5 arrays.*got 6'):
    place(more, 2, FLOAT)


def test_tx_needs_params():
  with pytest.raises(TypeError, match='params='):
    gl.place_state(
      stored(FLOAT), workers.mesh_of(2), axis_name=workers.AXIS, tx=FLOAT
    )


@pytest.mark.parametrize('tx', [FLOAT, INT8], ids=['linear', 'nonlinear'])
def test_arrays_move_from_one_mesh_to_another(tx):
  state = place(stored(tx), 4)
  saved = gl.collapse(state)
  placed = place(saved, 8, exact=False)
  assert placed[0].error['w'].shape == (8, 8, 16)
  assert placed[1][0].trace['w'].sharding.device_set == set(jax.devices())
  mean = np.asarray(state[0].error['w']).mean(0)
  assert workers.relative(placed[0].error['w'][3], mean) < 1e-6


def test_the_axis_may_be_a_tuple_of_one():
  axis = (workers.AXIS,)
  tx = gl.compress_gradients(gl.PowerSGD(4), axis)
  mesh = workers.mesh_of(4)
  saved = gl.collapse(gl.init_state(tx, PARAMS, mesh, axis_name=axis))
  placed = gl.place_state(saved, workers.mesh_of(2), axis_name=axis)
  assert placed.error['w'].shape == (2, 8, 16)
  template = gl.state_template(tx, PARAMS, mesh, axis_name=axis)
  assert template.error['w'].sharding.is_fully_replicated


def test_the_state_need_not_be_collapsed_before_it_is_placed():
  state = stored(FLOAT)
  direct, saved = place(state, 2), place(gl.collapse(state), 2)
  assert workers.relative(direct[0].error['w'], saved[0].error['w']) < 1e-6


@pytest.mark.parametrize('tx', [FLOAT, INT8], ids=['linear', 'nonlinear'])
@pytest.mark.parametrize('n', [2, 4])
def test_the_template_is_what_collapse_returns(tx, n):
  saved = gl.collapse(stored(tx))
  mesh = workers.mesh_of(n)
  template = gl.state_template(
    tx, PARAMS, mesh, axis_name=workers.AXIS, num_workers=4
  )
  assert jax.tree.structure(template) == jax.tree.structure(saved)
  for x, y in zip(*map(jax.tree.leaves, (template, saved)), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert x.sharding.device_set == set(mesh.devices.flat)
  error = template[0].error['w'].sharding
  if saved[0].error['w'].shape[0] == 4:
    assert error.spec[0] == workers.AXIS
  else:
    assert error.is_fully_replicated


def test_one_dense_step_sends_the_error_that_dense_would_keep():
  """The advice of the message about unsent errors, followed."""
  params = {'w': jnp.ones((8, 16))}
  late = gl.compress_gradients(gl.PowerSGD(2), None, start_step=8)
  state = late.init(params)
  unsent = jnp.full((1, 8, 16), 3.0)
  state = state._replace(count=jnp.array(7, jnp.int32), error={'w': unsent})
  updates, state = late.update(params, state)
  np.testing.assert_allclose(updates['w'], 4.0)
  np.testing.assert_array_equal(state.error['w'], 0)


def test_the_mean_of_double_precision_errors_is_exact_in_few_bits_as_well():
  with jax.enable_x64(True):
    mesh, params = workers.mesh_of(4), {'w': jnp.ones((8, 16))}
    make = lambda dtype: gl.compress_gradients(
      gl.PowerSGD(2), workers.AXIS, factor_dtype=dtype
    )
    state = gl.init_state(make(None), params, mesh, axis_name=workers.AXIS)
    errors = np.random.default_rng(0).normal(size=(4, 8, 16))
    state = state._replace(error={'w': jnp.asarray(errors)})
    placed = gl.place_state(
      state, mesh, axis_name=workers.AXIS, tx=make('int8'), params=params
    )
    np.testing.assert_allclose(
      np.mean(placed.error['w'], axis=0), errors.mean(axis=0), rtol=1e-14
    )
