"""Is every form in which XLA writes a collective read?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedylore_jax._src.report import collectives as _collectives

NAMED = "replica_groups=mesh['replica'=2,'fsdp'=2,'tensor'=2]"
REDUCE = '%r = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1}}'


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    (REDUCE, [('all-reduce', 'float32', (8, 4), None)]),
    (
      '%r = (bf16[8]{0}, f32[]) all-reduce-start(%x, %y), metadata={'
      'op_name="jit(f)/shard_map/greedylore.refresh/psum"}',
      [
        ('all-reduce', 'bfloat16', (8,), 'refresh'),
        ('all-reduce', 'float32', (), 'refresh'),
      ],
    ),
    (
      '%g = (s8[3]{0}, s8[12]{0}) all-gather-start(%x), dimensions={0}',
      [('all-gather', 'int8', (12,), None)],
    ),
    (
      '%p = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%x)',
      [('collective-permute', 'float32', (3,), None)],
    ),
    ('%d = f32[8]{0} all-reduce-done(%r)', []),
    ('%a = f32[8]{0} add(%all-reduce.1, %b)', []),
    ('%f = f32[8]{0} fusion(%x), calls=%all-reduce-thing', []),
  ],
)
def test_lines_of_compiled_programs(line, expected):
  found = [
    (c.kind, c.dtype, c.shape, c.phase) for c in _collectives._parse(line, None)
  ]
  assert found == expected


def test_every_dtype_has_a_size():
  for name in _collectives._DTYPES.values():
    assert jnp.dtype(name).itemsize > 0


def test_bytes_are_numbers_times_their_size():
  (found,) = _collectives._parse(REDUCE, None)
  assert (found.size, found.bytes) == (32, 128)


@pytest.mark.parametrize(
  ('groups', 'axes'),
  [
    ('replica_groups={{0,4},{1,5},{2,6},{3,7}}', ('replica',)),
    ('replica_groups={{0,1},{2,3},{4,5},{6,7}}', ('tensor',)),
    ('replica_groups=[4,2]<=[8]', ('tensor',)),
    ('replica_groups=[2,4]<=[8]', ('fsdp', 'tensor')),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', ('replica',)),
    ('replica_groups=[4,2]<=[2,2,2]T(0,2,1)', ('fsdp',)),
    (NAMED + " {'replica'}", ('replica',)),
    (NAMED + " {'tensor','fsdp'}", ('fsdp', 'tensor')),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ('replica',)),
    ("replica_groups=mesh['all'=8] {'all'}", ('replica', 'fsdp', 'tensor')),
    ("replica_groups=mesh['all'=8] {'all':(1)2}", ('replica',)),
    ("replica_groups=mesh['all'=8] {'all':(2)2}", ('fsdp',)),
    ("replica_groups=mesh['all'=8] {'all':(4)2}", ('tensor',)),
    ('replica_groups={}', ('replica', 'fsdp', 'tensor')),
    ('source_target_pairs={{0,2},{2,0},{1,3},{3,1}}', ('fsdp',)),
  ],
)
def test_groups_are_identified_by_the_axes_that_they_span(groups, axes):
  (found,) = parsed(groups)
  assert found.axes == axes


def test_an_unknown_form_of_groups_is_an_error_and_not_everybody():
  with pytest.raises(ValueError, match='use a version of jax'):
    parsed("replica_groups=mesh['a'=8] device_ids=([2,4]T(1,0)) {'a'}")


def parsed(groups):
  devices = np.array(jax.devices()).reshape(2, 2, 2)
  mesh = jax.sharding.Mesh(devices, ('replica', 'fsdp', 'tensor'))
  line = f'%r = f32[8]{{0}} all-reduce(%x), channel_id=1, {groups}, to_apply=%f'
  return _collectives._parse(line, mesh)
