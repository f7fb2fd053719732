"""`--plan`: what will be sent, needed and won, before anything is trained."""

import re

import pytest

import runs
from train import __main__ as program
from train import tasks
from train.config import command_line
from train.config.schema import Compression, Local
from train.run import forecast, optimizer
from train.study import budget


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


@pytest.mark.parametrize(
  'alpha', [pytest.param(None, marks=pytest.mark.slow, id='fixed'), 4e-3]
)
def test_rounds_have_an_average_a_peak_and_a_bandwidth(tmp_path, alpha):
  config = runs.settings(
    tmp_path,
    steps=20,
    compression=Compression('powersgd', rank=2, start_step=1),
    local=Local(every=3, qsr_alpha=alpha),
  )
  text = forecast.describe(config)
  plan = budget.plan(config, tasks.load(config))
  found = re.search(
    r'Rounds of (at least )?3 steps send (at most )?([\d.]+) kB per step on'
    r' average, and ([\d.]+) kB .*20 steps sends ([\d.]+) kB',
    text,
  )
  assert found
  assert bool(found[1]) == bool(found[2]) == (alpha is not None)
  average, peak, of_run = (1e3 * float(found[i]) for i in (3, 4, 5))
  assert average == pytest.approx(plan.bytes_in('compress') / 3, abs=51)
  assert peak == pytest.approx(plan.bytes_in('warmup'), abs=51)
  assert of_run == pytest.approx(plan.bytes_after(20) / 20, abs=51)
  measured = re.search(
    r'compress ([\d.]+) ms, local ([\d.]+) ms \(as dense\)\.', text
  )
  assert measured
  seconds = 1e-3 * (float(measured[1]) / 3 + float(measured[2]) * 2 / 3)
  mbits = re.search(r'computing below (at most )?([\d.]+) Mbit/s', text)
  assert mbits
  # A ring of 4, whose links leave 95 % to the payload.
  expected = 8e-6 * 1.5 * average / 0.95 / seconds
  assert float(mbits[2]) == pytest.approx(expected, rel=0.02)
  assert re.search(r'^ +0\.001 ', text, re.M), 'links that rounds are for'


def test_without_its_data_a_plan_says_what_to_do(capsys):
  argv = ['configs/greedylore/llama.py:9m']
  assert program.main([*argv, '--plan']) == 2
  error = capsys.readouterr().err
  assert "no 'data/t5.model' in" in error and error.count('\n') == 1
  words = error.split(' bytes, add ')[1].removesuffix('.\n').split()
  without = command_line.parse([*argv, *words], 'train')[0]
  assert tasks.load(without).description['tokenizer'] == 'bytes'


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


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    (['--steps', '3'], 'compression.start_step is 60, and it has 3 steps.'),
    (['--local.every', '30'], 'is 60, and it has 33 rounds.'),
    (['--local.every', '30', '--local.start_step', '40'], ''),
    (['--local.every', '30', '--local.selsync_threshold', '0.1'], ''),
    (['--compression.method', 'dense', '--steps', '3'], ''),
    ([], ''),
  ],
)
def test_a_run_that_ends_before_it_compresses_says_so(options, expected):
  config, _ = command_line.parse(['configs/quickstart.py', *options], '')
  line = ''.join(optimizer.late_start(config))
  assert line.endswith(expected) and bool(line) == bool(expected)
