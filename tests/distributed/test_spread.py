"""Is it right where a worker is several devices, as beside FSDP?"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import greedylore_jax as gl
from greedylore_jax._src.wire import inner_axes
import workers

ROOT = pathlib.Path(gl.__file__).parent.parent
P = jax.sharding.PartitionSpec
AXIS = 'replica'
SHAPES = {'wide': (64, 96), 'tall': (96, 64), 'layers': (2, 64, 128), 'b': (3,)}
SPECS = {
  'wide': P('fsdp', 'tensor'),
  'tall': P(('fsdp', 'tensor')),
  'layers': P(None, None, 'fsdp'),
  'b': P(),
}
COMPRESSOR = gl.GreedyLore(2, update_interval=3, probes=1)
POLICY = {'start_step': 1, 'min_compression_rate': 0}


def mesh_of(**sizes):
  kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)


def spread_params(mesh, specs):
  rng = np.random.default_rng(0)
  return {
    name: jax.device_put(
      rng.normal(size=SHAPES[name]).astype(np.float32),
      jax.sharding.NamedSharding(mesh, spec),
    )
    for name, spec in specs.items()
  }


def loss_fn(params, targets):
  """Distance from this worker's targets, leaves [rows, *shape]."""
  return sum(
    jnp.mean((params[name][None] - targets[name]) ** 2) for name in params
  )


def started(mesh, specs, compressor=COMPRESSOR):
  """The step, parameters and state of two workers on a mesh."""
  tx = optax.chain(
    gl.compress_gradients(compressor, AXIS, **POLICY),
    optax.clip_by_global_norm(1.0),
    optax.adam(1e-2),
  )
  params = spread_params(mesh, specs)
  state = gl.init_state(tx, params, mesh, axis_name=AXIS)
  return gl.make_train_step(loss_fn, tx, mesh, axis_name=AXIS), params, state


@functools.cache
def trained(**sizes):
  """Parameters and state after five steps, all kinds of step among them."""
  mesh = mesh_of(**sizes)
  several = len(sizes) > 1
  specs = SPECS if several else dict.fromkeys(SPECS, P())
  step, params, state = started(mesh, specs)
  for i in range(5):
    batch = workers.random_grads(SHAPES, 2, seed=i)
    params, state, loss = step(params, state, batch)
    loss.block_until_ready()
  assert step.jitted._cache_size() == 1, 'the step compiled again'
  return params, state


@pytest.mark.parametrize('fsdp', [1, 2])
def test_16_bit_factors_compile_next_to_an_axis_of_one_device(fsdp):
  """XLA's CPU compiler aborts at their mean if any axis is left to it."""
  mesh = mesh_of(replica=2, fsdp=fsdp, tensor=1)
  params = {'w': jnp.ones((8, 16))}
  params = jax.device_put(
    params, jax.sharding.NamedSharding(mesh, P(None, 'fsdp'))
  )
  tx = gl.greedylore(2, AXIS, factor_dtype=jnp.bfloat16)
  state = gl.init_state(tx, params, mesh, axis_name=AXIS)
  loss_fn = lambda params, x: jnp.mean(x @ params['w'])
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=AXIS)
  params, _, _ = step(params, state, jnp.ones((4, 8)))
  assert np.isfinite(params['w']).all()


def test_a_saved_state_is_placed_like_a_fresh_one():
  mesh = mesh_of(replica=2, fsdp=2, tensor=2)
  _, params, state = started(mesh, SPECS)
  saved = jax.tree.map(np.asarray, gl.collapse(state))
  placed = gl.place_state(saved, mesh, axis_name=AXIS, params=params)
  for x, y in zip(*map(jax.tree.leaves, (placed, state)), strict=True):
    assert x.sharding == y.sharding
    np.testing.assert_array_equal(x, y)


def test_parameters_are_those_of_workers_of_one_device():
  several, _ = trained(replica=2, fsdp=2, tensor=2)
  single, _ = trained(replica=2)
  for name in SHAPES:
    assert (
      workers.relative(several[name], single[name]) < workers.FLOAT32_FEEDBACK
    )


def test_everything_stays_spread_as_the_parameters_are():
  params, state = trained(replica=2, fsdp=2, tensor=2)
  compression, (_, (adam, _)) = state[0], (None, state[2])
  for name, spec in SPECS.items():
    for x in (params[name], adam.mu[name], adam.nu[name]):
      assert x.sharding.spec == spec
  errors, bases = compression.error, compression.compressor_state
  assert errors['wide'].sharding.spec == P(AXIS, 'fsdp', 'tensor')
  assert errors['tall'].sharding.spec == P(AXIS, ('fsdp', 'tensor'))
  assert errors['layers'].sharding.spec == P(AXIS, None, None, 'fsdp')
  assert bases['wide'].sharding.spec == P(None, ('fsdp', 'tensor'))
  assert bases['layers'].sharding.spec == P(None, ('fsdp', 'tensor'))


@functools.cache
def compiled(compressor=COMPRESSOR, leaf=None, spec=None):
  """The collectives of a step on 2 workers of 2 x 2 devices, and its plan."""
  mesh = mesh_of(replica=2, fsdp=2, tensor=2)
  specs = SPECS if leaf is None else {leaf: spec}
  step, params, state = started(mesh, specs, compressor)
  batch = workers.random_grads({name: SHAPES[name] for name in specs}, 2, 0)
  plan = gl.plan(
    compressor, params, num_workers=2, devices_per_worker=4, **POLICY
  )
  program = step.lower(params, state, batch).compile()
  return gl.collectives(program), plan


def test_only_messages_cross_the_workers_axis_a_part_on_each_device():
  found, plan = compiled()
  crossing = [c for c in found if AXIS in c.axes]
  assert {c.axes for c in crossing} == {(AXIS,)}
  sent = {}
  for c in crossing:
    sent.setdefault(c.phase, []).append((c.kind, c.dtype, 4 * c.size))
  assert sent.pop(None) == [('all-reduce', 'float32', 4)], 'the loss'
  assert sent == plan.rounds
  # The vector of 3 and the loss are filled up to one number per device.
  assert plan.bytes_in('warmup') == plan.dense_bytes + 4


def largest(found, phase):
  """Bytes of the largest array that the devices of a worker hand round."""
  return max(
    (c.bytes for c in found if c.phase == phase and AXIS not in c.axes),
    default=0,
  )


def test_no_matrix_is_gathered_in_any_kind_of_step():
  found, plan = compiled()
  leaf = min(x.dense_bytes for x in plan.leaves if x.compressed)
  # The part of a device may move to another one, as it is cut differently.
  assert largest(found, 'warmup') <= leaf / 4
  assert largest(found, 'compress') <= leaf / 4
  # Gram matrices, which are added up: 64 x 64 of 64 x 96.
  assert largest(found, 'refresh') == 4 * 64 * 64
  gathers = [c for c in found if c.kind == 'all-gather' and c.phase]
  assert max(c.bytes for c in gathers) < leaf / 8


@pytest.mark.parametrize(
  ('compressor', 'leaf', 'gathered'),
  [
    (gl.PowerSGD(2), 'wide', ''),
    (gl.PastSketches(4), 'wide', ''),
    (gl.GreedyLore(2, 3, basis_size=4), 'layers', ''),
    (gl.GreedyLore(2, 3, decomposition='svd'), 'layers', 'refreshes'),
    (gl.GreedyLore(2, 3, probes='independent'), 'tall', 'all phases'),
    (gl.TopK(0.02, indices='own'), 'wide', 'all phases'),
    (gl.ChunkTopK(chunk=16, keep=4, bits=2), 'wide', 'all phases'),
    (gl.ThresholdTopK(0.02, 3), 'wide', 'all phases'),
  ],
  ids=str,
)
def test_the_plan_says_what_is_gathered(compressor, leaf, gathered):
  found, plan = compiled(compressor, leaf, SPECS[leaf])
  (of_leaf,) = plan.leaves
  assert of_leaf.gathered == gathered
  # Of one matrix, or of its square basis.
  whole = 4 * 64 * 64
  assert (largest(found, 'compress') >= whole) == (gathered == 'all phases')
  assert (largest(found, 'refresh') >= 2 * whole) == (gathered == 'refreshes')


@pytest.mark.parametrize(
  'compressor',
  [
    gl.ChunkTopK(chunk=16, keep=5, bits=2, transform='dct'),
    gl.ThresholdTopK(0.02, 3),
  ],
  ids=str,
)
def test_every_device_of_a_worker_sends_a_part_of_its_entries(compressor):
  found, plan = compiled(compressor, 'wide', SPECS['wide'])
  sent = {}
  for c in found:
    if c.axes == (AXIS,) and c.phase:
      each = 4 * c.size // (2 if c.kind == 'all-gather' else 1)
      sent.setdefault(c.phase, []).append((c.kind, c.dtype, each))
  assert sent == plan.rounds


def test_a_matrix_whose_merged_axes_are_spread_is_gathered():
  mesh = mesh_of(replica=2, fsdp=4)
  kernel = lambda *spec: jax.ShapeDtypeStruct(
    (3, 3, 16, 32),
    jnp.float32,
    sharding=jax.sharding.NamedSharding(mesh, P(*spec)),
  )
  params = {
    'inputs': kernel(None, None, 'fsdp'),
    'outputs': kernel(None, None, None, 'fsdp'),
  }
  plan = gl.plan(gl.PowerSGD(2), params, num_workers=2, devices_per_worker=4)
  gathered = {leaf.path: leaf.gathered for leaf in plan.leaves}
  assert gathered == {'inputs': 'all phases', 'outputs': ''}
  assert 'gathered: all phases' in str(plan)
  # An axis of one device divides nothing.
  whole = jax.sharding.NamedSharding(mesh_of(replica=8, fsdp=1), P('fsdp'))
  params = {'w': jax.ShapeDtypeStruct((64, 96), jnp.float32, sharding=whole)}
  plan = gl.plan(gl.TopK(0.02, indices='own'), params, num_workers=8)
  assert plan.leaves[0].gathered == ''


def test_the_example_in_the_docs_runs():
  text = (ROOT / 'docs/fsdp.md').read_text(encoding='utf-8')
  (block,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  scope = {
    'jax': jax,
    'optax': optax,
    'gl': gl,
    'params': {'w': jnp.ones((32, 64)), 'b': jnp.zeros(64)},
    'loss_fn': lambda p, x: jnp.mean((x @ p['w'] + p['b'][None]) ** 2),
    'batch': jnp.ones((8, 32)),
  }
  exec(compile(block, 'docs/fsdp.md', 'exec'), scope)
  assert scope['params']['w'].sharding.spec == P(None, 'fsdp')


@pytest.mark.parametrize('dtype', ['int8', 'int4'])
def test_few_bits_are_shared_among_the_devices_of_a_worker(dtype):
  """What is sent is what is planned, and nothing is lost."""
  mesh = mesh_of(replica=2, fsdp=2)
  specs = {'wide': P('fsdp'), 'tall': P(None, 'fsdp')}
  options = {'factor_dtype': dtype, 'min_compression_rate': 0}
  tx = gl.compress_gradients(gl.PowerSGD(3), AXIS, **options)
  params = spread_params(mesh, specs)
  state = gl.init_state(tx, params, mesh, axis_name=AXIS)
  step = gl.make_train_step(
    lambda p, g: sum(jnp.sum(p[k] * jnp.mean(g[k], 0)) for k in p),
    optax.chain(tx, optax.scale(-1.0)),
    mesh,
    axis_name=AXIS,
    donate=False,
  )
  grads = workers.random_grads({k: SHAPES[k] for k in specs}, 2, seed=0)
  lowered = step.lower(params, (state, optax.EmptyState()), grads)
  plan = gl.plan(
    gl.PowerSGD(3), params, num_workers=2, devices_per_worker=2, **options
  )
  sent = [
    x
    for x in gl.collectives(lowered.compile())
    if x.axes == (AXIS,) and x.phase == 'compress'
  ]
  # Every device sends its part, and receives that of both workers.
  each = lambda x: 2 * x.size // (2 if x.kind == 'all-gather' else 1)
  assert [(x.kind, x.dtype, each(x)) for x in sent] == plan.rounds['compress']
  new, (after, _), _ = step(params, (state, optax.EmptyState()), grads)
  for name in specs:
    went = params[name] - new[name] + after.error[name].mean(0)
    assert workers.relative(went, grads[name].mean(0)) < 1e-5


@pytest.mark.parametrize('shape', [(6, 8), (8, 6), (4, 8, 2), (3, 5), (7,), ()])
@pytest.mark.parametrize('parts', [1, 2, 4])
def test_parts_are_equal_and_make_up_the_whole(shape, parts):
  x = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.float32).reshape(shape)
  cut = inner_axes.cut(x, parts)
  assert cut.shape == (parts, inner_axes.part_size(x.size, parts))
  np.testing.assert_array_equal(inner_axes.join(cut, shape), x)


def test_parameters_spread_over_the_workers_are_refused():
  mesh = mesh_of(replica=2, fsdp=4)
  step, _, state = started(mesh, {'wide': P('fsdp')})
  params = spread_params(mesh, {'wide': P(AXIS)})
  batch = workers.random_grads({'wide': SHAPES['wide']}, 2, 0)
  match = "'wide' is sharded as .* must be equal on all of them"
  with pytest.raises(ValueError, match=match):
    step.lower(params, state, batch)
  with pytest.raises(ValueError, match=match):
    started(mesh, {'wide': P(None, ('fsdp', AXIS))})


def test_axes_that_are_not_left_to_the_partitioner_are_refused():
  mesh = jax.make_mesh((2, 4), (AXIS, 'fsdp'))
  with pytest.raises(ValueError, match="The axis 'fsdp' of the mesh"):
    gl.make_train_step(loss_fn, optax.sgd(0.1), mesh, axis_name=AXIS)
