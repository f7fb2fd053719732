"""Does every damaged file end in one line, quickly and harmlessly?"""

import sys

import pytest

from benchmarks.soak import fuzz, fuzz_formats

INPUTS = 40


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize(
  'name',
  [
    name
    if name in ('configuration', 'safetensors', 'results.jsonl')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in fuzz_formats.FORMATS
  ],
)
def test_damaged_files_are_refused_in_one_line(name):
  """Thousands of them: `make soak`."""
  if name in ('array_record', 'texts'):
    pytest.importorskip('tensorflow_datasets')
    pytest.importorskip('pyarrow')
  found = fuzz.fuzz(name, INPUTS)
  assert [x.index for x in found] == [*range(INPUTS)]
  assert not [*fuzz.faults(found)]
  assert any(x.result == 'refused' for x in found)


def test_the_same_seed_gives_the_same_inputs():
  one, other = (
    [(x.what, x.result) for x in fuzz.fuzz('configuration', 10, seed)]
    for seed in (3, 3)
  )
  assert one == other
