"""Does the library behave as its theory says? The studies on tiny sizes."""

import pathlib

import numpy as np
import pytest

from experiments.theory import contraction, growth, projector, speedup

FOLDER = pathlib.Path(projector.__file__).parent
STUDIES = (projector, contraction, growth, speedup)


def assert_they_hold(claims):
  assert claims
  for claim in claims:
    assert claim.holds, claim


def test_the_error_of_a_fixed_projector_grows_without_bound():
  found = projector.measure(a=8, b=12, rank=2, steps=200)
  assert_they_hold(projector.claims(found))


@pytest.mark.slow
def test_independent_probes_contract_and_shared_ones_have_a_counterexample():
  found = contraction.measure(
    a=32, b=40, rank=2, probes=(1,), more_probes=(1,), draws=1000
  )
  assert_they_hold(contraction.claims(found))
  broken, _ = found.worst[1]
  assert broken.mean < 0.8, 'one shared probe loses a good part of the bound'


def test_the_proved_share_of_shared_probes_is_right_at_its_ends():
  """One column has stable rank 1; very many have all of them."""
  assert contraction.stable_rank(5, 1) == pytest.approx(1)
  assert contraction.stable_rank(5, 5000, draws=20) == pytest.approx(5, rel=0.1)


@pytest.mark.slow
def test_the_error_grows_with_rank_and_not_with_the_interval():
  found = growth.measure(a=8, b=12, ranks=(2,), intervals=(10, 30, 100))
  assert_they_hold(growth.claims(found))


@pytest.mark.slow
def test_workers_save_steps():
  found = speedup.measure(
    workers=(1, 8),
    most_steps=2400,
    target=0.3,
    rates=(4.0,),
    seeds=1,
    problem=speedup.Problem.draw(n=16, a=8, b=12, noise=64.0),
    optimizers=('MSGD',),
    methods=('dense', 'GreedyLore'),
  )
  for steps in found.steps.values():
    assert np.isfinite(steps).all()
    assert speedup.slope(found.workers, steps) == pytest.approx(-1, abs=0.1)


def test_steps_are_counted_until_the_running_mean_is_small():
  norms = np.array([1.0, 0.5, 0.0, 0.0, 0.0])
  assert speedup.steps_to(norms, 0.5) == 3
  assert speedup.steps_to(norms, 0.1) == np.inf


@pytest.mark.parametrize('study', STUDIES, ids=lambda study: study.NAME)
def test_what_is_committed_agrees_and_is_shown(study):
  text = (FOLDER / f'{study.NAME}.md').read_text(encoding='utf-8')
  assert '| yes |' in text and '**no**' not in text
  prose = (FOLDER.parents[1] / 'docs/theory.md').read_text(encoding='utf-8')
  assert f'](../experiments/theory/{study.NAME}.png)' in prose
