"""`--plan`: what will be sent, needed and won, before anything is trained."""

import re

import pytest

import runs
from train import __main__ as program
from train.run import forecast


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  return forecast.describe(runs.settings(tmp_path_factory.mktemp('plan')))


def test_the_plan_is_that_of_the_run_not_of_the_worker_that_is_measured(text):
  assert 'ring of 4' in text
  assert 'One worker with 2 examples' in text


def test_every_lasting_kind_of_step_is_measured(text):
  measured = re.search(
    r'dense step ([\d.]+) ms; (.*?) ([\d.]+) ms, (.*?) ([\d.]+) ms\.', text
  )
  assert measured
  assert {measured[2], measured[4]} == {'refresh', 'compress'}
  assert all(float(measured[i]) > 0 for i in (1, 3, 5))


def test_runs_are_timed_in_turns():
  log = []

  class Worker:
    def __init__(self, run, mesh, task):
      self.run = run

    def take_turn(self):
      log.append(self.run)

    def measured(self):
      return f'{self.run} measured'

  measured = forecast.measure(['a', 'b'], None, None, worker=Worker)
  assert measured == ['a measured', 'b measured']
  assert len(log) > 2
  assert log == ['a', 'b'] * (len(log) // 2)


def test_slower_links_win_more_and_the_verdict_fits(text):
  rows = re.findall(r'^ +([\d.]+)(?: +[\d.e-]+){3} +([\d.]+)x$', text, re.M)
  rates = [float(rate) for rate, _ in rows]
  gains = [float(gain) for _, gain in rows]
  assert rates == [0.1, 1, 10, 100]
  limit = re.search(r'is faster below ([\d.e-]+) Gbit/s', text)
  below = float(limit[1]) if limit else float('inf' if 'any' in text else 'nan')
  for rate, gain in zip(rates, gains, strict=True):
    if gain > 1.01:
      assert rate <= below
    if gain < 0.99:
      assert rate >= below


def test_the_command_prints_it_and_trains_nothing(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(forecast, 'describe', lambda run: str(run.steps))
  path = runs.write(tmp_path)
  assert program.main([path, '--plan', '--steps', '7']) == 0
  assert capsys.readouterr().out == '7\n'
  assert not (tmp_path / 'runs').exists()


def test_a_batch_that_does_not_divide(tmp_path):
  with pytest.raises(ValueError, match='multiple of 4 workers, got 6'):
    forecast.describe(runs.settings(tmp_path, batch_size=6))
