"""Is what a run writes down whole, also after an interruption?"""

import json
import math
import time

import jax.numpy as jnp
import pytest

import greedylore_jax as gl
from train.run import diagnostics, json_files, metrics, progress, report

TRAIN = {
  'loss': 5.54321,
  'learning_rate': 0.003,
  'seconds': 1.5,
  'tokens_per_second': 12345.6,
  'bytes_sent': 2_500_000,
  'dense_bytes': 10_000_000,
  'skipped_steps': 0,
}
HELD_OUT = {
  'eval_loss': 4.98765,
  'eval_bits_per_byte': 7.1955,
  'bytes_sent': 2_500_000,
  'dense_bytes': 10_000_000,
}
LINES = [
  {'step': 10, **TRAIN},
  {'step': 10, **HELD_OUT},
  {'step': 20, **TRAIN, 'loss': 4.5, 'bytes_sent': 5_000_000},
  {'step': 20, **HELD_OUT, 'eval_loss': 4.25, 'bytes_sent': 5_000_000},
]
SUMMARY = {
  'steps': 20,
  'final_loss': 4.5,
  'final_eval_loss': 4.25,
  'final_eval_bits_per_byte': 6.1314,
  'compressor': 'greedylore',
  'num_workers': 4,
  'bytes_sent': 5_000_000,
  'dense_bytes': 20_000_000,
  'bytes_per_step': 250_000,
  'dense_bytes_per_step': 1_000_000,
  'compression': 4.0,
  'seconds': 61.7,
  'checkpoint_bytes': 0,
}


def in_file(workdir):
  text = (workdir / 'metrics.jsonl').read_text(encoding='utf-8')
  assert text.endswith('\n') or not text
  return [json.loads(line) for line in text.splitlines()]


def write(workdir, lines, step=0, writes=True):
  """Lets a part of a run that starts after `step` steps write these lines."""
  with metrics.Metrics(workdir, step, writes=writes) as journal:
    for line in lines:
      values = dict(line)
      journal.write(values.pop('step'), **values)
  return journal


# Lines.


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
  with metrics.Metrics(tmp_path, 0) as journal:
    for i, line in enumerate(LINES):
      values = dict(line)
      journal.write(values.pop('step'), **values)
      assert in_file(tmp_path) == journal.lines == LINES[: i + 1]


def test_steps_that_will_run_again_are_dropped(tmp_path):
  write(tmp_path, LINES)
  later = [LINES[2] | {'loss': 4.4}, LINES[2] | {'step': 30}]
  journal = write(tmp_path, later, step=19)
  assert in_file(tmp_path) == journal.lines == LINES[:2] + later


def test_the_step_of_the_checkpoint_is_kept(tmp_path):
  write(tmp_path, LINES)
  assert write(tmp_path, [], step=20).lines == LINES
  assert in_file(tmp_path) == LINES


@pytest.mark.parametrize('kept', [0, 1, 20])
def test_a_line_that_was_cut_off_is_left_out(tmp_path, kept):
  write(tmp_path, LINES[:3])
  path = tmp_path / 'metrics.jsonl'
  with path.open('a', encoding='utf-8') as file:
    file.write(json.dumps(LINES[3])[:kept])
  assert metrics.read(path) == LINES[:3]
  write(tmp_path, LINES[3:], step=20)
  assert in_file(tmp_path) == LINES


def test_a_line_without_its_end_may_not_be_whole(tmp_path):
  """A number cut short would still be a number."""
  path = tmp_path / 'metrics.jsonl'
  path.write_text('\n'.join(map(json.dumps, LINES[:2])), encoding='utf-8')
  assert metrics.read(path) == LINES[:1]


def test_without_a_file_there_are_no_lines(tmp_path):
  assert metrics.read(tmp_path / 'metrics.jsonl') == []
  write(tmp_path, [])
  assert in_file(tmp_path) == []
  assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_other_processes_remember_but_do_not_write(tmp_path):
  write(tmp_path, LINES)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  journal = write(tmp_path, LINES[2:], step=10, writes=False)
  assert journal.lines == LINES
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_the_newest_value_of_a_name(tmp_path):
  journal = write(tmp_path, LINES, writes=False)
  assert journal.last('loss') == 4.5
  assert journal.last('eval_loss') == 4.25
  assert journal.last('absent') is None
  assert journal.last('absent', 7) == 7


def test_tensorboard_gets_an_event_file(tmp_path):
  with metrics.Metrics(tmp_path, 0, tensorboard=True) as journal:
    journal.write(10, loss=5.5)
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert events.name.startswith('events.out.tfevents.')
  assert b'loss' in events.read_bytes()


# What a person sees.


def test_a_training_line_in_words():
  assert progress.describe(LINES[0]) == (
    'loss 5.543  12,346 tokens/s  sent 2.5 MB of 10 MB'
  )


def test_a_held_out_line_in_words():
  assert progress.describe(LINES[1]) == (
    'held-out loss 4.9877, 7.196 bits per byte'
  )
  assert progress.describe({'eval_loss': 1.0}) == 'held-out loss 1.0000'


def test_without_a_terminal_there_is_a_line_per_evaluation(capsys):
  with progress.Bar(1000, 0, shown=True) as bar:
    bar.say('[not] markup')
    for line in LINES:
      bar.advance(line['step'])
      bar.show(line)
  assert capsys.readouterr().out.splitlines() == [
    '[not] markup',
    'step   10  held-out loss 4.9877, 7.196 bits per byte  training loss 5.543'
    '  12,346 tokens/s  sent 2.5 MB of 10 MB',
    'step   20  held-out loss 4.2500, 7.196 bits per byte  training loss 4.500'
    '  12,346 tokens/s  sent 5 MB of 10 MB',
  ]


def test_other_processes_print_nothing(capsys):
  with progress.Bar(1000, 0, shown=False) as bar:
    bar.say('hello')
    for line in LINES:
      bar.show(line)
  assert capsys.readouterr().out == ''


@pytest.fixture
def at(monkeypatch):
  """Sets the time."""

  def set_time(seconds):
    monkeypatch.setattr(time, 'monotonic', lambda: 1000.0 + seconds)

  set_time(0.0)
  return set_time


def test_the_clock_continues_from_an_earlier_part(at):
  clock = progress.Clock(50.0, 100)
  assert clock.seconds == 50.0
  at(2.5)
  assert clock.seconds == 52.5


def test_a_lap_is_the_rate_since_the_last_one(at):
  clock = progress.Clock(50.0, 100)
  at(2.0)
  assert clock.lap(110) == 5.0
  at(6.0)
  assert clock.lap(150) == 10.0


def test_a_stopped_clock_counts_neither_seconds_nor_laps(at):
  clock = progress.Clock(0.0, 0)
  at(4.0)
  with clock.stopped_after(jnp.zeros(())):
    at(104.0)
  assert clock.seconds == 4.0
  at(105.0)
  assert clock.seconds == 5.0
  assert clock.lap(10) == 2.0


# What is left at the end.


def test_the_summary_is_json(tmp_path):
  json_files.write(tmp_path / 'summary.json', SUMMARY)
  text = (tmp_path / 'summary.json').read_text(encoding='utf-8')
  assert json.loads(text) == SUMMARY


@pytest.mark.parametrize('saved', [0, 1_500_000])
@pytest.mark.parametrize('sends', [False, True])
def test_the_paragraph(tmp_path, sends, saved):
  summary = SUMMARY | {'checkpoint_bytes': saved}
  summary |= {} if sends else {'bytes_sent': 0}
  sent = (
    (
      ' Each worker sent 5 MB by greedylore; dense averaging would have'
      ' sent 20 MB, 4.00x as much.'
    )
    if sends
    else ''
  )
  if saved:
    sent += ' Averaging the errors for checkpoints took another 1.5 MB.'
  assert report.conclusion(summary, LINES, tmp_path) == (
    '\n20 steps took the training loss from 5.543 to 4.500 in 62 s. Held-out'
    ' loss: 4.250, 6.131 bits per byte.'
    f'{sent}'
    f'\nCheckpoints and metrics are in {tmp_path}.'
    f'\nCurves, bytes per leaf and configuration: {tmp_path}/report.html'
  )


def test_a_run_whose_metrics_are_gone_still_ends_well(tmp_path):
  summary = {'final_loss': None, 'final_eval_loss': None}
  assert 'metrics.jsonl is missing' in report.conclusion(summary, [], tmp_path)


# Strict JSON, and damage.


def refuse_constant(name):
  raise AssertionError(f'{name} is not JSON')


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(tmp_path, value):
  """In every file; a resumed run reads them back as NaN."""
  write(tmp_path, [LINES[0] | {'loss': value}])
  written = SUMMARY | {'nested': [{'x': (value,)}]}
  json_files.write(tmp_path / 'summary.json', written)
  strict = lambda text: json.loads(text, parse_constant=refuse_constant)
  assert strict((tmp_path / 'metrics.jsonl').read_text())['loss'] is None
  summary = strict((tmp_path / 'summary.json').read_text())
  assert summary == SUMMARY | {'nested': [{'x': [None]}]}
  (line,) = metrics.read(tmp_path / 'metrics.jsonl')
  assert math.isnan(line['loss'])
  assert line | {'loss': TRAIN['loss']} == LINES[0]
  assert progress.describe(line).startswith('loss nan')


def seen(captured, kept, drift, by_leaf=None):
  return gl.Diagnostics(captured, kept, drift, by_leaf)


def test_a_line_has_the_diagnostics_of_all_leaves_and_of_each():
  window = diagnostics.Window(['a/0', 'b'])
  of_leaves = gl.Diagnostics([0.25, 1 / 3], [2.0, 3.0], [0.5, math.nan])
  window.add('refresh', seen(0.5, 1.0, 0.125, of_leaves))
  window.add('compress', seen(1.0, 4.0, 0.0, of_leaves))
  line = window.line()
  assert line == {
    'captured_energy': 0.75,
    'captured_energy/a/0': 0.25,
    'captured_energy/b': 0.3333,
    'error_to_gradient': 4.0,
    'error_to_gradient/a/0': 2.0,
    'error_to_gradient/b': 3.0,
    'basis_drift': 0.125,
    'basis_drift/a/0': 0.5,
  }
  assert window.line() == {}, 'the next line is about later steps'
  found = diagnostics.of_leaves([{'step': 7, **line}], 'captured_energy')
  assert found == {'a/0': [(7, 0.25)], 'b': [(7, 0.3333)]}


def test_diagnostics_without_a_number_survive_a_checkpoint():
  window = diagnostics.Window(['a'])
  of_leaves = gl.Diagnostics([math.nan], [0.25], [math.inf])
  window.add('refresh', seen(math.nan, 0.5, math.inf, of_leaves))
  saved = json.loads(json.dumps(window.state(), allow_nan=False))
  expected = {'error_to_gradient': 0.5, 'error_to_gradient/a': 0.25}
  assert diagnostics.Window(['a'], saved).line() == expected
  assert diagnostics.Window([], saved).line() == {}, 'of other leaves'


@pytest.mark.parametrize(
  'damage',
  [
    b'<<<<<<< HEAD',
    b'\xff\xfe\0',
    b'[' * 100_000,
    b'3',
    b'{"step": 20}',
    b'{"step": "20", "bytes_sent": 1, "dense_bytes": 2}',
    b'',
  ],
)
def test_a_damaged_line_is_named(tmp_path, damage):
  write(tmp_path, LINES[:1])
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes() + damage + b'\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl is damaged: line 2 '):
    metrics.read(path)


@pytest.mark.parametrize('damage', [b'', b'{', b'\xff\0', b'[' * 100_000])
def test_a_damaged_file_is_named(tmp_path, damage):
  (tmp_path / 'summary.json').write_bytes(damage)
  with pytest.raises(ValueError, match=r'summary\.json is damaged: '):
    json_files.read(tmp_path / 'summary.json')
