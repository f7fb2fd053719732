"""Are the bytes that are promised the bytes that the program sends?"""

import math

import jax.numpy as jnp
import optax
import pytest

import greedylore_jax as gl
import workers

SHAPES = {'w': (16, 24), 'u': (24, 16), 'layers': (2, 8, 40), 'bias': (24,)}
COMPRESSORS = {
  'shared': gl.GreedyLore(3, update_interval=5, probes=2),
  'independent': gl.GreedyLore(3, 5, probes='independent'),
  'fixed': gl.FixedSubspace(3, update_interval=5),
  'random': gl.RandomSubspace(3, update_interval=5),
  'powersgd': gl.PowerSGD(3),
  'range finder': gl.RangeFinder(3),
  'half warm': gl.RangeFinder(3, warm=0.5),
  'past sketches': gl.PastSketches(3),
  'sketched basis': gl.GreedyLore(3, 5, basis_size=5),
  'tsr': gl.TSR(3, update_interval=5, oversampling=2),
  'tsr, bases': gl.TSR(3, update_interval=5, average='bases'),
  'top columns': gl.TopK(0.1, probes=2),
  'top entries': gl.TopK(0.1, indices='own'),
  'random entries': gl.RandomK(0.1),
  'count sketch': gl.CountSketch(density=0.05),
  'split columns': gl.SplitColumns(0.2, 5),
  'chunks': gl.ChunkTopK(chunk=8, keep=5, bits=2, transform='dct'),
  'chunks, 8 bits': gl.ChunkTopK(chunk=8, keep=5, bits=8),
  'threshold': gl.ThresholdTopK(0.1, update_interval=5),
  '4 bits': gl.Quantize(4),
  'sign': gl.Sign(),
  'dense': gl.Dense(),
}


@pytest.mark.parametrize(
  ('name', 'start_step'), [*((x, 0) for x in COMPRESSORS), ('shared', 2)]
)
def test_compiled_collectives_are_the_plan_number_by_number(name, start_step):
  options = {'start_step': start_step, 'min_compression_rate': 0}
  if name == 'dense':
    options.pop('min_compression_rate')
  params = workers.zeros(SHAPES)
  plan = gl.plan(COMPRESSORS[name], params, num_workers=4, **options)
  tx = gl.compress_gradients(COMPRESSORS[name], workers.AXIS, **options)
  program = workers.compiled_update(tx, params)
  sent = workers.sent_by_phase(gl.collectives(program))
  assert sent == plan.rounds
  if name != 'dense':
    # A collective per round, and no dense one hides in a compressed step. The
    # vector is averaged, so what is gathered has one beside it.
    # A mean in a few bits takes two.
    once = ('fixed', 'random', 'tsr', 'tsr, bases', 'random entries')
    collectives = {'4 bits': 3} | dict.fromkeys(once, 1)
    assert len(sent['compress']) == collectives.get(name, 2)
    refresh = {'threshold': 2, 'sketched basis': 2, 'tsr': 4, 'tsr, bases': 3}
    refresh['split columns'] = 2
    assert len(sent.get('refresh', [1])) == refresh.get(name, 1)
    assert plan.bytes_in('compress') < plan.dense_bytes / 2


def test_the_numbers_are_those_of_the_formulas():
  """a * m + r * b per matrix, a * b at a refresh, dense leaves whole."""
  plan = gl.plan(
    COMPRESSORS['shared'], workers.zeros(SHAPES), min_compression_rate=0
  )
  scores = 2 * (16 + 16 + 2 * 8) + 24
  factors = 3 * (24 + 24 + 2 * 40)
  assert plan.rounds['compress'] == [
    ('all-reduce', 'float32', scores),
    ('all-reduce', 'float32', factors),
  ]
  whole = 2 * 16 * 24 + 2 * 8 * 40 + 24
  assert plan.dense_bytes == plan.bytes_in('refresh') == 4 * whole
  average = (whole + 4 * (scores + factors)) / 5
  assert plan.bytes_per_step == pytest.approx(4 * average)
  # One error of each matrix and one basis.
  assert plan.state_bytes == 4 * (whole - 24 + 2 * 16 * 16 + 2 * 8 * 8)


def test_bytes_of_a_run_add_up_over_the_phases():
  plan = gl.plan(
    COMPRESSORS['shared'],
    workers.zeros(SHAPES),
    start_step=3,
    min_compression_rate=0,
  )
  phases = [plan.phase_at(step) for step in range(10)]
  assert phases == (
    ['warmup'] * 3 + ['refresh'] + ['compress'] * 4 + ['refresh', 'compress']
  )
  assert plan.bytes_after(10) == sum(map(plan.bytes_in, phases))
  assert plan.peak_bytes == plan.dense_bytes


def test_lower_precision_on_the_wire_is_planned():
  params = workers.zeros(SHAPES)
  plan = gl.plan(COMPRESSORS['shared'], params, factor_dtype=jnp.bfloat16)
  full = gl.plan(COMPRESSORS['shared'], params)
  bias = 4 * 24
  assert plan.bytes_in('compress') - bias == (
    (full.bytes_in('compress') - bias) // 2
  )
  assert plan.bytes_in('refresh') == full.bytes_in('refresh')


@pytest.mark.parametrize('name', ['powersgd', 'chunks', 'top entries', 'sign'])
@pytest.mark.parametrize('dtype', [None, 'int8'])
def test_the_plan_of_one_worker_has_the_messages_of_two(name, dtype):
  options = {'min_compression_rate': 0, 'factor_dtype': dtype}
  params = workers.zeros(SHAPES)
  one, two = (
    gl.plan(COMPRESSORS[name], params, num_workers=n, **options) for n in (1, 2)
  )
  assert one.rounds == two.rounds
  assert one.bytes_in('compress') == two.bytes_in('compress')


def test_a_phase_that_does_not_occur_is_an_error():
  plan = gl.plan(gl.PowerSGD(2), {'w': jnp.zeros((16, 40))})
  with pytest.raises(ValueError, match=r"must be one of compress.*'warmup'"):
    plan.bytes_in('warmup')


def test_a_matrix_that_would_not_shrink_stays_dense():
  params = {'w': jnp.zeros((4, 40)), 'big': jnp.zeros((64, 64))}
  plan = gl.plan(gl.GreedyLore(3), params, min_compression_rate=2.0)
  decided = {leaf.path: leaf for leaf in plan.leaves}
  assert not decided['w'].compressed
  assert decided['w'].how == 'would shrink only 1.18x'
  assert decided['big'].compressed


PLACES = {(64, 128): 13, (300, 400): 17}  # Bits that say one of a b places.


@pytest.mark.parametrize('shape', PLACES, ids=str)
@pytest.mark.parametrize(
  ('method', 'options', 'sent'),
  [
    (gl.TopK(0.05, 'own'), {}, lambda a, b: entries(a, b, 0.05)),
    (gl.ThresholdTopK(0.04), {}, lambda a, b: entries(a, b, 1.5 * 0.04)),
    (gl.ChunkTopK(), {}, lambda a, b: blocks(a, b, 64 * 4)),
    (gl.ChunkTopK(bits=1), {}, lambda a, b: blocks(a, b, 8 + 2)),
    (gl.ChunkTopK(bits=2), {}, lambda a, b: blocks(a, b, 8 + 2 * 4)),
    (gl.ChunkTopK(bits=4), {}, lambda a, b: blocks(a, b, 32 + 2)),
    (gl.Sign(), {}, lambda a, b: a * b / 8 + 4 * a),
    (gl.Quantize(2), {}, lambda a, b: a * b / 64 * 18),
    (gl.Quantize(8), {}, lambda a, b: a * b / 64 * 66),
    (gl.PowerSGD(16), {}, lambda a, b: 16 * (a + b) * 4),
    (gl.PowerSGD(16), {'factor_dtype': 'bfloat16'}, lambda a, b: 32 * (a + b)),
    (gl.PowerSGD(16), {'factor_dtype': 'int4'}, lambda a, b: (a + b) / 4 * 34),
  ],
  ids=lambda x: 'bytes' if callable(x) else str(x),
)
def test_a_matrix_is_compressed_if_that_sends_fewer_bytes(
  method, options, sent, shape
):
  """Bytes as they are packed, with places and scales, of one of two workers."""
  params = {'w': jnp.zeros(shape)}
  of = lambda rate: gl.plan(
    method, params, num_workers=2, min_compression_rate=rate, **options
  )
  found = of(0).bytes_in('compress')
  assert found == pytest.approx(sent(*shape), rel=1e-2)
  rate = 4 * shape[0] * shape[1] / found
  assert of(0.98 * rate).leaves[0].compressed
  assert not of(1.02 * rate).leaves[0].compressed


def entries(a, b, density):
  """Bytes of values and places."""
  return density * a * b * (4 + PLACES[a, b] / 8)


def blocks(a, b, values):
  """Bytes of 64 places of 12 bits, and of values, in every block."""
  return math.ceil(a / 64) * math.ceil(b / 64) * (64 * 12 / 8 + values)


def test_leaves_of_one_shape_are_traced_once():
  """A model of many layers is planned in the time of one."""
  traced = []

  class Traced(gl.PowerSGD):
    def compress(self, h, state, key):
      traced.append(h.shape)
      return (yield from super().compress(h, state, key))

  params = {f'layer {i}': jnp.zeros((16, 24)) for i in range(5)}
  plan = gl.plan(Traced(2), params, num_workers=4, min_compression_rate=0)
  assert len(traced) == 2  # What one worker sends decides; four are planned.
  assert plan.bytes_in('compress') == 5 * 4 * 2 * (16 + 24)


def test_the_table_merges_layers_and_nothing_else():
  shapes = {'b1': (24,), 'b2': (16,)}
  shapes |= {f'layers/{i}/w': (16, 24) for i in range(3)}
  params = workers.zeros(shapes)
  lines = str(gl.plan(gl.PowerSGD(2), params, num_workers=4)).splitlines()
  names = [line.split()[0] for line in lines if line]
  assert [x for x in names if x[0] in 'bl' and x != 'leaf'] == [
    'b1',
    'b2',
    'layers/*/w',
  ]


def test_the_table_names_every_leaf_and_its_bytes():
  plan = gl.plan(COMPRESSORS['shared'], workers.zeros(SHAPES), num_workers=8)
  text = str(plan)
  for word in ('layers', 'bias', '1-D, not a matrix', 'refresh step sends'):
    assert word in text


def test_a_train_step_sends_the_plan_and_its_loss():
  params = workers.zeros(SHAPES)
  tx = optax.chain(gl.greedylore(3, workers.AXIS), optax.adam(0.1))
  mesh = workers.mesh_of(4)
  state = gl.init_state(tx, params, mesh, axis_name=workers.AXIS)
  loss_fn = lambda p, x: sum(jnp.mean(v**2) for v in p.values()) + x.mean()
  step = gl.make_train_step(loss_fn, tx, mesh, axis_name=workers.AXIS)
  compiled = step.lower(params, state, jnp.zeros(4)).compile()
  sent = sum(c.bytes for c in gl.collectives(compiled))
  plan = gl.plan(gl.GreedyLore(3), params, num_workers=4)
  assert sent == 4 + sum(map(plan.bytes_in, plan.rounds))
