"""Do workers that share the decompositions of a refresh get the same bases?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_plan

import greedylore_jax as gl
from greedylore_jax._src.wire import transport as _transport
import workers

SHAPES = {'bias': (5,), 'deep': (3, 8, 12), 'u': (12, 8), 'w': (8, 16)}
METHOD = gl.GreedyLore(2, update_interval=2, probes=2)


def test_every_worker_has_about_as_much_to_do():
  task = lambda *shape: _transport._rounds.Each(None, jnp.zeros(shape))
  owners = _transport._owners([task(3, 8, 12), task(1, 16, 16)], 2)
  # 3 x 768 against 4,096 operations: whoever has the large one has no other.
  assert [x.tolist() for x in owners] == [[1, 1, 1], [0]]


def test_shared_bases_are_those_of_everybody():
  """Three workers, so that sums over them round; on a mesh, to the last bit."""
  options = {'axis_name': workers.AXIS, 'min_compression_rate': 0}
  alone, shared = (
    gl.compress_gradients(METHOD, share_decompositions=share, **options)
    for share in (False, True)
  )
  mesh, p = workers.mesh_of(3), jax.sharding.PartitionSpec
  state = gl.init_state(
    alone, workers.zeros(SHAPES), mesh, axis_name=workers.AXIS
  )
  specs = gl.state_partition_specs(state, workers.AXIS)

  def update(grads, state):
    grads = jax.tree.map(lambda g: g[0], grads)
    return alone.update(grads, state), shared.update(grads, state)

  both = jax.jit(
    jax.shard_map(
      update,
      mesh=mesh,
      in_specs=(p(workers.AXIS), specs),
      out_specs=((p(), specs),) * 2,
    )
  )
  for step in range(3):
    grads = workers.random_grads(SHAPES, 3, seed=step)
    (want, state), (updates, theirs) = both(grads, state)
    jax.tree.map(np.testing.assert_array_equal, theirs.memory, state.memory)
    jax.tree.map(np.testing.assert_array_equal, updates, want)


def test_compiled_collectives_are_the_plan():
  options = {'min_compression_rate': 0, 'share_decompositions': True}
  params = workers.zeros(SHAPES)
  plan = gl.plan(METHOD, params, num_workers=4, **options)
  tx = gl.compress_gradients(METHOD, workers.AXIS, **options)
  sent = {}
  for c in gl.collectives(test_plan.compiled_update(tx, params)):
    sent.setdefault(c.phase, []).append((c.kind, c.dtype, c.size))
  assert sent == plan.rounds
  bases = 3 * 8 * 8 + 8 * 8 + 8 * 8
  assert plan.rounds['refresh'][1] == ('all-reduce', 'float32', bases)


def test_leaves_are_decomposed_together_one_by_one():
  """One loop for each shape, however many leaves have it."""
  tx = gl.compress_gradients(METHOD, None, min_compression_rate=0)
  params = workers.zeros(dict.fromkeys('abcde', (8, 12)))
  text = jax.jit(tx.update).lower(params, tx.init(params)).as_text()
  assert text.count('syevd') == 1


def test_workers_of_several_devices_are_refused():
  with pytest.raises(ValueError, match='one device each, got 4'):
    gl.plan(
      METHOD,
      workers.zeros(SHAPES),
      devices_per_worker=4,
      share_decompositions=True,
    )
