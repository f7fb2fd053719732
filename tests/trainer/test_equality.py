"""Is a worker found whose parameters are not those of the others?"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
from train import __main__ as program
from train.config import exit_codes, machines
from train.config.schema import Agreement, Checkpoint, Compression, Local, Log
from train.distributed import equality
from train.run import loop

P = jax.sharding.PartitionSpec


def mesh_of(*shape):
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  axes = machines.REPLICA, machines.FSDP, machines.TENSOR
  return jax.sharding.Mesh(devices, axes)


def changed(x, device, place, bit):
  """An array of which one device has another bit in its copy."""
  shards = []
  for shard in x.addressable_shards:
    data = np.array(shard.data)
    if shard.device == device:
      unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32}[data.dtype.itemsize]
      data.reshape(-1).view(unsigned)[place] ^= unsigned(1 << bit)
    shards.append(jax.device_put(data, shard.device))
  return jax.make_array_from_single_device_arrays(x.shape, x.sharding, shards)


def params_on(mesh):
  rng = np.random.default_rng(0)
  specs = {'a': P(), 'b': P(None, machines.FSDP), 'c': P(), 'd': P()}
  values = {
    'a': jnp.zeros(5),
    'b': jnp.asarray(rng.normal(size=(3, 8)), jnp.float32),
    'c': jnp.asarray(rng.normal(size=7), jnp.bfloat16),
    'd': jnp.arange(300) % 2 == 0,
  }
  place = lambda x, spec: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, spec)
  )
  return {name: place(x, specs[name]) for name, x in values.items()}


@pytest.mark.parametrize('shape', [(4, 2, 1), (8, 1, 1), (2, 2, 2)])
def test_equal_workers_pass_and_one_bit_of_one_worker_is_found(shape):
  mesh = mesh_of(*shape)
  params, comparison = params_on(mesh), equality.Comparison(mesh_of(*shape))
  comparison.check(params, 3)
  last = shape[0] - 1
  device = mesh.devices[last, shape[1] - 1, 0]
  for name, place, bit in (('a', 4, 31), ('b', 2, 0), ('c', 6, 9), ('d', 9, 0)):
    odd = params | {name: changed(params[name], device, place, bit)}
    with pytest.raises(equality.Unequal) as error:
      comparison.check(odd, 3)
    who = f'worker {last} (process 0) of {shape[0]} differs from the others'
    if shape[0] == 2:
      who = 'workers 0 (process 0), 1 (process 0) of 2 differ from each other'
    expected = f'same parameters, but after step 3 {who} in {name}: the memory'
    assert expected in str(error.value)
  comparison.check(params, 3)


def test_numbers_that_changed_places_are_found():
  mesh = mesh_of(4, 1, 1)
  params = params_on(mesh)
  b = params['b']
  shards = [np.array(x.data) for x in b.addressable_shards]
  shards[1] = shards[1][:, ::-1]
  shards[2] = -shards[2]
  placed = [
    jax.device_put(data, shard.device)
    for data, shard in zip(shards, b.addressable_shards, strict=True)
  ]
  odd = jax.make_array_from_single_device_arrays(b.shape, b.sharding, placed)
  # Two of four differ from the two others: no majority says who is right.
  expected = 'workers 0 .*, 1 .*, 2 .*, 3 .* of 4 differ from each other in b'
  with pytest.raises(equality.Unequal, match=expected):
    equality.Comparison(mesh).check(params | {'b': odd}, 3)


def test_one_worker_is_never_unequal():
  mesh = mesh_of(1, 2, 1)
  params = params_on(mesh)
  odd = changed(params['a'], mesh.devices[0, 1, 0], 0, 3)
  equality.Comparison(mesh).check(params | {'a': odd}, 1)


def breaking(at):
  """A `build_job` whose step changes a bit of worker 2 after some step."""

  def build_job(config, mesh, task):
    job, taken = runs.build_job(config, mesh, task), []

    def step(*args):
      params, *others = job.step(*args)
      taken.append(1)
      if len(taken) == at:
        leaves, tree = jax.tree.flatten(params)
        leaves[0] = changed(leaves[0], mesh.devices[2, 0, 0], 0, 1)
        params = jax.tree.unflatten(tree, leaves)
      return params, *others

    return dataclasses.replace(job, step=step)

  return build_job


@pytest.mark.parametrize(
  ('at', 'local', 'found'),
  [
    pytest.param(2, 1, 3, marks=pytest.mark.slow),
    (4, 1, 6),
    (1, 4, 4),
    pytest.param(5, 1, 6, marks=pytest.mark.slow),
  ],
)
def test_a_run_ends_before_its_next_checkpoint(tmp_path, at, local, found):
  """A comparison every 3 steps, or at the end of the round behind them."""
  settings = runs.settings(
    tmp_path,
    compression=Compression('dense'),
    local=Local(every=local),
    checkpoint=Checkpoint(every=8),
    agreement=Agreement(every=3),
    log=Log(every=8, tensorboard=False, diagnostics=False),
  )
  with pytest.raises(equality.Unequal, match=f'after step {found} worker 2 '):
    loop.run(settings, tmp_path / 'work', build_job=breaking(at))
  assert not [*(tmp_path / 'work' / 'checkpoints').iterdir()]


def test_it_is_compared_before_every_checkpoint(tmp_path):
  settings = runs.settings(
    tmp_path,
    compression=Compression('dense'),
    agreement=Agreement(every=0),
    log=Log(every=8, tensorboard=False, diagnostics=False),
  )
  with pytest.raises(equality.Unequal, match='after step 4 worker 2 '):
    loop.run(settings, tmp_path / 'work', build_job=breaking(2))


def test_it_has_an_exit_code(tmp_path, capsys, monkeypatch):
  def run(*_):
    raise equality.Unequal('all workers must hold the same parameters.')

  monkeypatch.setattr(loop, 'run', run)
  assert program.main([runs.write(tmp_path)]) == exit_codes.UNEQUAL
  expected = 'error: all workers must hold the same parameters.\n'
  assert capsys.readouterr().err == expected
