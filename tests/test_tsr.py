"""TSR-Adam: the algorithm, its bytes, and what its averaging loses."""


import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers
import pytest

import greedylore_jax as gl

SIZES = {
    '60M': (512, 1376, 8),
    '130M': (768, 2048, 12),
    '350M': (1024, 2736, 24),
    '1B': (2048, 5461, 24),
}
# The paper's table: rank, that of embeddings, interval, dense GB, average MB,
# largest step GiB, as printed. Ablations are without the dense column.
TABLE = [
    ('60M', 256, 64, 100, '0.167', '20.0', '0.098'),
    ('130M', 384, 96, 100, '0.438', '58.9', '0.312'),
    ('350M', 384, 128, 100, '1.34', '115.2', '0.786'),
    ('1B', 512, 256, 100, '5.09', '213.5', '1.996'),
    ('60M', 128, 64, 200, None, '8.4', '0.050'),
    ('130M', 256, 96, 50, None, '32.3', '0.203'),
    ('350M', 256, 128, 50, None, '62.6', '0.512'),
]


def llama(size, head=False):
  """The matrices of a LLaMA, its layers stacked, without its norms."""
  d, ffn, layers = SIZES[size]
  shapes = {
      'embedding': (32_000, d),
      'attention': (4 * layers, d, d),
      'feed_forward': (3 * layers, d, ffn),
  }
  if head:
    shapes['head'] = (d, 32_000)
  return {
      k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()
  }


def plan(size, rank, embedding_rank, interval, *, head=False, **options):
  rules = [
      ('embedding', gl.TSR(embedding_rank, 2, **options)),
      ('', gl.TSR(rank, interval, **options)),
  ]
  matrix, stack = MuonDimensionNumbers(0, 1), MuonDimensionNumbers(1, 2)
  numbers = {'embedding': matrix, 'attention': stack, 'feed_forward': stack}
  return gl.plan(
      rules, llama(size, head), error_feedback=False,
      weight_dimension_numbers=numbers | ({'head': None} if head else {}),
  )  # fmt: skip


@pytest.mark.parametrize('row', TABLE, ids=lambda row: f'{row[0]}-{row[1]}')
def test_the_papers_byte_table_to_the_printed_digits(row):
  size, rank, embedding_rank, interval, dense, average, peak = row
  p = plan(size, rank, embedding_rank, interval, average='bases')
  digits = lambda text: len(text.split('.')[1])
  assert f'{p.bytes_per_step / 1e6:.{digits(average)}f}' == average
  assert f'{p.peak_bytes / 2**30:.{digits(peak)}f}' == peak
  if dense:
    assert f'{p.dense_bytes / 1e9:.{digits(dense)}f}' == dense


def test_what_the_table_leaves_out():
  """The head is dense there, and counts."""
  ratio = lambda p: p.dense_bytes / p.bytes_per_step
  small = plan('60M', 256, 64, 100, average='bases')
  assert ratio(small) == pytest.approx(8.3, abs=0.05)
  small = plan('60M', 256, 64, 100, average='bases', head=True)
  assert ratio(small) == pytest.approx(2.7, abs=0.05)
