"""Is the public API what its users rely on, and documented?"""

import dataclasses
import inspect
import pathlib
import re

import pytest

import greedylore_jax as gl
from greedylore_jax._src.engine.policy import Policy

PUBLIC = {
  'compressors': (
    'Compressor Dense FixedSubspace Frozen GreedyLore PastSketches PowerSGD'
    ' Quantize RandomK RandomSubspace RangeFinder Sign TSR TopK'
    ' ChunkTopK CountSketch SplitColumns ThresholdTopK'
  ),
  'their parts': 'Each Gather Product Quantized',
  'transformations': (
    'compress_gradients greedylore average_gradients tsr_adam PolicyOptions'
    ' local_updates local_params QSR SelSync lordo'
    ' sketched_amsgrad frugal'
  ),
  'states': (
    'CompressState TSRAdamState LocalUpdatesState InFlight PerWorker init_state'
    ' place_state state_partition_specs'
    ' state_template collapse expand'
    ' SketchedAMSGradState FrugalState'
  ),
  'training': 'TrainStep make_train_step value_and_local_grad',
  'reports': (
    'Collective Diagnostics Plan Prediction collectives plan predict'
  ),
}
NAMES = ' '.join(PUBLIC.values()).split()
OPTIONS = [*gl.PolicyOptions.__annotations__]


def test_the_public_names_are_these():
  assert sorted(gl.__all__) == sorted(NAMES)


def test_the_citation_is_of_this_version():
  root = pathlib.Path(gl.__file__).parent.parent
  text = (root / 'CITATION.cff').read_text('utf-8')
  assert f'\nversion: {gl.__version__}\n' in text


@pytest.mark.parametrize('name', NAMES)
def test_every_public_name_has_a_docstring_that_is_its_own(name):
  doc = getattr(gl, name).__doc__
  assert doc, name
  assert not doc.startswith(f'{name}('), f'{name} has the generated docstring'


@pytest.mark.parametrize(
  'compressor',
  [
    gl.GreedyLore(2, probes='independent'),
    gl.PastSketches(2, fresh=0.7),
    gl.PowerSGD(2, seed=3),
    gl.RangeFinder(2, warm=0.5),
    gl.TSR(2, 10),
    gl.FixedSubspace(2),
    gl.RandomSubspace(2),
    gl.TopK(0.1, 'own'),
    gl.RandomK(0.1),
    gl.ChunkTopK(transform='dct'),
    gl.ThresholdTopK(0.1),
    gl.CountSketch(),
    gl.Quantize(4),
    gl.Sign(),
    gl.SplitColumns(0.2, compressor=gl.Quantize(8)),
    gl.Dense(),
    gl.Frozen(),
  ],
  ids=lambda x: type(x).__name__,
)
def test_a_compressor_is_printed_as_the_call_that_makes_it(compressor):
  assert eval(repr(compressor), vars(gl)) == compressor


def test_options_are_declared_and_documented_once():
  fields = {x.name for x in dataclasses.fields(Policy)}
  assert fields == {'compressor', *OPTIONS}
  doc = inspect.getdoc(gl.PolicyOptions)
  documented = re.findall(r'^ {2}(\w+): ', doc, re.MULTILINE)
  assert documented == OPTIONS


@pytest.mark.parametrize(
  'use',
  [
    lambda **options: gl.compress_gradients(gl.PowerSGD(2), None, **options),
    lambda **options: gl.greedylore(2, None, **options),
    lambda **options: gl.plan(gl.PowerSGD(2), {}, **options),
  ],
  ids=['compress_gradients', 'greedylore', 'plan'],
)
def test_an_unknown_option_gets_the_nearest_name(use):
  use(start_step=3)
  with pytest.raises(
    TypeError, match=r"'start_stp'.*did you mean 'start_step'"
  ):
    use(start_stp=3)
