"""Does the trainer go the same way whatever its mesh?"""

import dataclasses

import jax
import numpy as np
import pytest

import greedylore_jax as gl
import runs
from train.config import machines
from train.config.schema import Checkpoint, Evaluation, Mesh, Model
from train.distributed import cluster
from train.models import llama, llama_rules
from train.run import loop

# Two refreshes, compressed steps and a checkpoint.
MODEL = Model(width=16, layers=1, heads=2, feed_forward=24)


def settings(folder, mesh, **changes):
  replica, fsdp, tensor = mesh
  return runs.settings(
    folder,
    steps=6,
    model=MODEL,
    mesh=Mesh(replica=replica, fsdp=fsdp, tensor=tensor),
    evaluation=Evaluation(every=0, sequences=16),
    checkpoint=Checkpoint(every=3),
    **changes,
  )


def mesh_of(*shape):
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  axes = machines.REPLICA, machines.FSDP, machines.TENSOR
  return jax.sharding.Mesh(devices, axes)


def losses(workdir):
  return [x['loss'] for x in runs.lines_of(workdir) if 'loss' in x]


@pytest.fixture(scope='module')
def replicated(tmp_path_factory):
  """A run on eight workers of one device: folder, losses and parameters."""
  folder = tmp_path_factory.mktemp('replicated')
  _, params = runs.run(settings(folder, (8, 1, 1)), folder / 'work')
  return folder, losses(folder / 'work'), params


def check_same(replicated, workdir, params):
  _, expected, expected_params = replicated
  np.testing.assert_allclose(losses(workdir), expected, rtol=1e-6)
  runs.assert_close(params, expected_params)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', [(1, 8, 1), (2, 2, 2)])
def test_losses_do_not_depend_on_the_mesh(replicated, tmp_path, mesh):
  run = settings(replicated[0], mesh)
  summary, params = runs.run(run, tmp_path)
  check_same(replicated, tmp_path, params)
  if mesh[0] > 1:
    runs.check_bytes(run, tmp_path, summary)


@pytest.mark.slow
def test_a_run_resumes_with_another_mesh(replicated, tmp_path, capsys):
  """Begun on 4 x 2, ended on 2 x 4; all bytes as planned on both."""
  runs.interrupt(settings(replicated[0], (4, 2, 1)), tmp_path, 5)
  _, params = runs.run(settings(replicated[0], (2, 4, 1)), tmp_path)
  said = capsys.readouterr().out
  assert said.count('compiled step send exactly this') == 2
  assert 'Continuing after step 3' in said
  check_same(replicated, tmp_path, params)


@pytest.mark.slow
def test_stacked_layers_give_the_loss_of_blocks_one_by_one():
  one_by_one = dataclasses.replace(MODEL, layers=3, remat=True)
  stacked = dataclasses.replace(one_by_one, scan=True)
  params = llama.init(one_by_one, 31, seed=1)
  blocks = [params['blocks'][str(i)] for i in range(3)]
  scanned = params | {'blocks': jax.tree.map(lambda *xs: np.stack(xs), *blocks)}
  shapes = jax.tree.map(np.shape, llama.init(stacked, 31, seed=1))
  assert jax.tree.map(np.shape, scanned) == shapes
  batch = jax.random.randint(jax.random.key(2), (2, 9), 0, 31)
  grad_fn = lambda model: jax.jit(
    jax.value_and_grad(llama.make_loss(model, 31))
  )
  loss, grads = grad_fn(one_by_one)(params, batch)
  loss_scanned, grads_scanned = grad_fn(stacked)(scanned, batch)
  np.testing.assert_allclose(loss_scanned, loss, rtol=1e-6)
  for i in range(3):
    np.testing.assert_allclose(
      grads_scanned['blocks']['attention']['query'][i],
      grads['blocks'][str(i)]['attention']['query'],
      rtol=1e-4,
      atol=1e-7,
    )


@pytest.mark.parametrize('scan', [False, True])
def test_rules_spread_every_matrix(scan):
  model = dataclasses.replace(MODEL, scan=scan)
  shapes = jax.eval_shape(lambda: llama.init(model, 32, 0))
  numbers = llama_rules.matrix_dimension_numbers(shapes, embeddings=True)
  placed = cluster.shardings(
    shapes, llama_rules.partition_specs(shapes), mesh_of(2, 2, 2)
  )
  for (path, x), sharding in zip(
    jax.tree_util.tree_leaves_with_path(shapes),
    jax.tree.leaves(placed),
    strict=True,
  ):
    size = np.prod(sharding.shard_shape(x.shape))
    spread = 1 if 'norm' in str(path[-1]) else 4
    assert size * spread == x.size, path
  stack = numbers['blocks']['attention']['query'] if scan else None
  assert stack is None or stack.reduction_axis == 1


def test_a_parameter_without_a_rule_is_named():
  params = {'adapter': jax.ShapeDtypeStruct((4, 4), np.float32)}
  with pytest.raises(ValueError, match="'adapter'"):
    llama_rules.partition_specs(params)


@pytest.mark.parametrize(
  ('mesh', 'changes', 'message'),
  [
    ((2, 3, 1), {'batch_size': 6}, 'does not divide as'),
    ((2, 4, 1), {'batch_size': 12}, '2 workers x 4 mesh.fsdp x 1'),
    ((4, 4, 1), {'batch_size': 16}, 'number of devices, but'),
  ],
)
def test_a_mesh_that_cannot_be_is_refused(tmp_path, mesh, changes, message):
  run = settings(tmp_path, mesh)
  sequences = Evaluation(sequences=changes['batch_size'])
  run = dataclasses.replace(run, **changes, evaluation=sequences)
  with pytest.raises(ValueError, match=message):
    loop.run(run, tmp_path / 'work')


def test_without_a_number_of_workers_all_devices_are_used(tmp_path):
  mesh = cluster.start(settings(tmp_path, (0, 2, 2)))
  assert dict(mesh.shape) == {'replica': 2, 'fsdp': 2, 'tensor': 2}


def test_a_program_with_stacked_layers_does_not_grow_with_them():
  """From shapes alone; so its compile time does not grow either."""
  mesh = mesh_of(2, 2, 2)
  place = lambda x, sharding: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=sharding
  )
  tx = gl.compress_gradients(
    gl.GreedyLore(2),
    machines.REPLICA,
    min_compression_rate=0,
    weight_dimension_numbers=llama_rules.matrix_dimension_numbers,
  )
  lines = []
  for layers in (2, 24):
    model = dataclasses.replace(MODEL, layers=layers, scan=True)
    shapes = jax.eval_shape(lambda model=model: llama.init(model, 32, 0))
    specs = llama_rules.partition_specs(shapes)
    placed = cluster.shardings(shapes, specs, mesh)
    params = jax.tree.map(place, shapes, placed)
    state = gl.init_state(tx, params, mesh, axis_name=machines.REPLICA)
    error = state.error['blocks']['attention']['query']
    assert error.shape == (2, layers, 16, 16)
    spread = jax.P(machines.REPLICA, None, machines.FSDP, machines.TENSOR)
    assert error.sharding.spec == spread
    step = gl.make_train_step(
      llama.make_loss(model, 32), tx, mesh, axis_name=machines.REPLICA
    )
    batch = jax.ShapeDtypeStruct((8, 9), np.int32)
    text = step.lower(params, state, batch).as_text()
    lines.append(len(text.splitlines()))
  assert lines[1] <= lines[0]
