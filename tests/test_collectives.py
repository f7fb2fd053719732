"""Is every form in which XLA writes a collective read?"""

import jax.numpy as jnp
import pytest

from greedylore_jax import _collectives

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
            '%p = (f32[3]{0}, f32[3]{0}, u32[], u32[]) '
            'collective-permute-start(%x)',
            [('collective-permute', 'float32', (3,), None)],
        ),
        ('%d = f32[8]{0} all-reduce-done(%r)', []),
        ('%a = f32[8]{0} add(%all-reduce.1, %b)', []),
        ('%f = f32[8]{0} fusion(%x), calls=%all-reduce-thing', []),
    ],
)
def test_lines_of_compiled_programs(line, expected):
  found = [
      (c.kind, c.dtype, c.shape, c.phase) for c in _collectives._parse(line)
  ]
  assert found == expected


def test_every_dtype_has_a_size():
  for name in _collectives._DTYPES.values():
    assert jnp.dtype(name).itemsize > 0


def test_bytes_are_numbers_times_their_size():
  (found,) = _collectives._parse(REDUCE)
  assert (found.size, found.bytes) == (32, 128)
