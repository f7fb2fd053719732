"""Does a study run what it should, once, and say what came of it?"""

import json
import pathlib
import re

import pytest

import pages
import texts
from train import compare
from train.config import command_line
from train.config.schema import Compression, Local
from train.run import paths
from train.study import grid, results

ROOT = pathlib.Path(compare.__file__).parent.parent
CONFIG = """
config = Config(
    steps=6,
    batch_size=4,
    data=Data(
        source='files', files=({files!r},), sequence_length=32,
        eval_fraction=0.1,
    ),
    model=Model(width=32, layers=1, heads=2, feed_forward=48),
    compression=Compression(rank=2, update_interval=3, start_step=1),
    mesh=Mesh(replica=2),
    evaluation=Evaluation(every=3, sequences=8),
    checkpoint=Checkpoint(every=3),
    log=Log(every=1),
)
"""
SUMMARY = {
  'final_eval_loss': 2.5,
  'final_eval_bits_per_byte': 3.6,
  'num_workers': 4,
  'bytes_per_step': 10.0,
  'compression': 2.0,
  'seconds': 3.0,
}


@pytest.fixture
def path(tmp_path):
  """A configuration of a run of seconds."""
  (tmp_path / 'texts').mkdir()
  files = str(texts.write(tmp_path / 'texts') / '**' / '*.txt')
  file = tmp_path / 'tiny.py'
  file.write_text(CONFIG.format(files=files), encoding='utf-8')
  return str(file)


class Calls(list):
  """The names of the runs that a study starts; leaves what a run leaves."""

  def __call__(self, words):
    settings = command_line.parse(words[2:], 'train')[0]
    folder = pathlib.Path(settings.workdir)
    name, digest = folder.name.rsplit('-', 1)
    assert len(digest) == 8, 'a folder for each run, whatever it is called'
    self.append(name)
    for name in (paths.CHECKPOINTS, paths.TENSORBOARD):
      (folder / name).mkdir(parents=True, exist_ok=True)
    sent = {'bytes_sent': 60, 'dense_bytes': 120}
    lines = [
      {'step': 6, 'loss': 2.0, 'seconds': 3.0, **sent},
      {'step': 6, 'eval_loss': 2.5, **sent},
    ]
    text = ''.join(f'{json.dumps(line)}\n' for line in lines)
    (folder / paths.METRICS).write_text(text, encoding='utf-8')
    summary = json.dumps(SUMMARY)
    (folder / paths.SUMMARY).write_text(summary, encoding='utf-8')
    return 0


@pytest.fixture
def started():
  return Calls()


def choices(path, *entries, **more):
  return grid.Choices(path, (), tuple(map(grid.entry, entries)), **more)


# The grid.


def test_runs_come_in_order_and_say_what_they_are(path):
  asked = choices(
    path,
    'dense',
    'powersgd',
    'greedylore:probes=0:rank=3',
    budgets=(3.0, 8.0),
    learning_rates=(1e-3, 2e-3),
    seeds=(0, 7),
  )

  def choose(entry, times):
    return grid.Knob('rank', 24 // times) if entry.text == 'powersgd' else None

  runs = grid.runs(asked, list(grid.variants(asked, choose)))
  assert len(runs) == 4 + 8 + 4
  assert runs[0].title == 'dense, lr 0.001, seed 0'
  assert [run.name for run in runs[4:9]] == [
    'powersgd-rank8-lr0.001-seed0',
    'powersgd-rank8-lr0.001-seed7',
    'powersgd-rank8-lr0.002-seed0',
    'powersgd-rank8-lr0.002-seed7',
    'powersgd-rank3-lr0.001-seed0',
  ]
  assert runs[11].title == 'powersgd rank 3, lr 0.002, seed 7'
  assert runs[-1].name == 'greedylore-probes=0-rank=3-lr0.002-seed7'
  assert [run.budget for run in runs[3:9:5]] == [None, 8.0]
  last = runs[-1].config
  assert last.compression == Compression(
    rank=3, update_interval=3, start_step=1, probes=0, seed=7
  )
  assert (last.seed, last.data.seed) == (7, 7)
  assert last.optimizer.learning_rate == 2e-3
  for run in runs:
    assert command_line.parse([*run.options], 'train')[0] == run.config


def test_an_entry_may_set_keys_of_the_section_local(path):
  text = 'powersgd:every=10:outer_momentum=0.5:local.start_step=2:start_step=3'
  asked = choices(path, text)
  (run,) = grid.runs(asked, list(grid.variants(asked, lambda *_: None)))
  assert run.config.local == Local(every=10, outer_momentum=0.5, start_step=2)
  assert run.config.compression.start_step == 3
  assert run.title == text


def test_candidates_are_combined_where_a_method_reads_them(path):
  asked = grid.Choices(path, ('--local.outer_learning_rate', '0.7'), ())
  of = lambda text: grid.candidates(grid.entry(text), (1, 4), ('int8',))
  settings = {}
  for text in 'powersgd:outer_momentum=0.5', 'quantize', 'top_k:every=2':
    for entry in of(text):
      assert entry.group == text
      config = asked.config(*entry.options)
      local, sent = config.local, config.compression
      settings[entry.text] = local, sent.factor_dtype
  assert settings == {
    'powersgd:outer_momentum=0.5:every=1:factor_dtype=int8': (Local(), 'int8'),
    'powersgd:outer_momentum=0.5:every=4:factor_dtype=int8': (
      Local(every=4, outer_momentum=0.5, outer_learning_rate=0.7),
      'int8',
    ),
    'quantize:every=1': (Local(), None),
    'quantize:every=4': (Local(every=4, outer_learning_rate=0.7), None),
    'top_k:every=2:factor_dtype=int8': (
      Local(every=2, outer_learning_rate=0.7),
      'int8',
    ),
  }


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      ['--compressors', 'dense,powersgd:update_interval=3'],
      '--compressors powersgd:update_interval=3: powersgd does not read'
      ' update_interval',
    ),
    (
      ['--compressors', 'dense,powersgd:rnak=3'],
      '--compressors powersgd:rnak=3: the sections compression and local have'
      " no key rnak to set; the nearest is 'rank'",
    ),
    (
      ['--compressors', 'dense:rank'],
      "--compressors takes METHOD:key=value, got 'rank' in 'dense:rank'",
    ),
    (['--compressors', 'dense,powersdg'], ", got 'powersdg'."),
    (
      ['--compressors', 'powersgd:rank=0'],
      'compression.rank must be at least 1, got 0.',
    ),
    (
      ['--compressors', 'powersgd:rank=3:rank=4'],
      '--compression.rank must be given once',
    ),
    (
      ['--compressors', 'dense,'],
      "--compressors must be methods with commas between them, got 'dense,'",
    ),
    (
      ['--compressors', 'dense,dense'],
      'expected values that differ, got dense,dense',
    ),
    (
      ['--compressors', 'dense', '--budgets', '3,x'],
      "--budgets must be a tuple of finite numbers, got (3, 'x')",
    ),
    (
      ['--compressors', 'dense', '--budgets', '0.5'],
      '--budgets must be at least 1, got 0.5',
    ),
    (
      ['--compressors', 'powersgd', '--every', '1,4', '--local.every', '4'],
      '--every sets local.every in every run of a study',
    ),
    (
      ['--compressors', 'powersgd', '--every', '0,4'],
      '--every must be at least 1, got 0',
    ),
    (
      ['--compressors', 'powersgd', '--precisions', 'int8,int7'],
      "--precisions must be a tuple of values, each one of 'float32',"
      " 'bfloat16', 'float16', 'int8', 'int4', 'int2', got ('int8', 'int7')",
    ),
    (
      ['--compressors', 'powersgd:rank=0', '--every', '1,4'],
      'compression.rank must be at least 1, got 0.',
    ),
    (
      ['--compressors', 'powersgd:outer_momentum=0.5'],
      'local.outer_momentum is only for local.every above 1',
    ),
    (['--compressors', 'dense', '--seeds', '0.5'], "of integers, got ('0.5',)"),
    (['--compressors', 'dense', '--learning-rates', 'nan'], "got ('nan',)"),
    (
      ['--compressors', 'dense', '--bandwidth', '0'],
      '--bandwidth must be above 0 Mbit/s, got 0',
    ),
    (
      ['--compressors', 'dense', '--seeds', '1', '--data.seed', '2'],
      '--seeds sets data.seed in every run of a study, got --data.seed as well',
    ),
    (
      ['--compressors', 'dense', '--step', '3'],
      "unknown option --step; the nearest is 'steps'",
    ),
    (
      ['--compressors', 'dense', '--optimizer.name', 'adamx'],
      "nearest is 'adamax'.",
    ),
    (['--compressors', 'dense', '--data.files', 'absent'], 'matches none in'),
    (['--compressors', 'dense', '--mesh.replica', '0'], 'set mesh.replica'),
    ([], 'expected python -m train.compare CONFIG --compressors VALUE'),
  ],
)
def test_mistakes_are_one_line_before_anything_runs(
  path, started, capsys, options, message
):
  assert compare.main([path, *options], call=started) == 2
  out, err = capsys.readouterr()
  assert not out and not started
  assert err.startswith('error: ') and err.count('\n') == 1
  assert message in err


@pytest.mark.slow
def test_the_recipes_of_the_page_on_sparse_messages_are_studies(
  started, tmp_path
):
  text = (ROOT / 'docs/methods/sparse.md').read_text(encoding='utf-8')
  lines = re.findall(
    r'^ +python -m train.compare (.*)$', text.replace('\\\n', ''), re.MULTILINE
  )
  assert len(lines) == 3
  for i, line in enumerate(lines):
    config, *words = line.split()
    workdir = ['--workdir', str(tmp_path / str(i))]
    args = [str(ROOT / config), *words, *workdir]
    assert compare.main(args, call=started) == 0
  # dense and SparseLoCo, DeMo at two rates, and a density for each budget.
  assert len(started) == 6


@pytest.mark.slow
def test_budgets_are_for_methods_that_have_a_choice(
  path, started, capsys, tmp_path
):
  code = compare.main(
    [
      path,
      '--compressors',
      'dense,powersgd,powersgd:rank=4,greedylore',
      '--budgets',
      '1.5,1.50001,900',
      '--compression.embeddings',
      'True',
      '--steps',
      '30',
      '--workdir',
      str(tmp_path),
    ],
    call=started,
  )
  assert code == 0
  out = capsys.readouterr().out
  *methods, chosen = started
  assert methods[0] == 'dense' and methods[2] == 'powersgd-rank=4'
  assert methods[1].startswith('powersgd-rank') and len(methods) == 3
  assert chosen.startswith('greedylore-rank'), 'equal ranks are one run'
  assert 'Left out: greedylore cannot send 900 times fewer bytes' in out
  assert 'its smallest rank, 1, sends' in out
  assert f'[4/4] {chosen.replace("-rank", " rank ")} (about ' in out
  table = (tmp_path / 'table.md').read_text(encoding='utf-8')
  assert table.count('| powersgd |') == 2, 'a row for each budget'
  assert table.count('| powersgd:rank=4 |') == 1
  assert 'powersgd | 900x' not in table


@pytest.mark.slow
def test_budgets_search_rounds_and_precisions_together(
  path, started, capsys, tmp_path
):
  """Each combination has its largest rank; those that cannot be are named."""
  code = compare.main(
    [
      path,
      '--compressors=dense,powersgd,tsr_adam',
      '--budgets=22',
      '--every=1,3',
      '--precisions=float32,int8',
      '--compression.embeddings=True',
      '--compression.start_step=0',
      '--steps=30',
      f'--workdir={tmp_path}',
    ],
    call=started,
  )
  assert code == 0
  out = capsys.readouterr().out
  assert 'Left out: tsr_adam:every=3: local.every is only for' in out
  assert 'Left out: powersgd:every=1:factor_dtype=float32 cannot' in out
  rank = lambda text: int(out.split(f'{text} within 22x: rank ')[1].split()[0])
  text = 'powersgd:every={}:factor_dtype={}'.format
  assert rank(text(1, 'int8')) <= rank(text(3, 'float32'))
  assert rank(text(3, 'float32')) < rank(text(3, 'int8'))
  assert len(started) == 5
  table = (tmp_path / 'table.md').read_text(encoding='utf-8')
  # Equal losses: the first of the candidates counts as the best.
  best = [x for x in table.splitlines() if '**' in x]
  methods = [x.split(' | ')[0] for x in best]
  assert methods == ['| dense:every=1', '| powersgd:every=1:factor_dtype=int8']
  assert table.count('| powersgd:') == 3


# Results.


@pytest.fixture
def run(path, started, tmp_path):
  """Runs a study again and gives what it started."""

  def again(
    *options, methods='dense,powersgd', folder='study', code=0, call=started
  ):
    started.clear()
    place = str(tmp_path / folder)
    argv = [path, '--compressors', methods, '--workdir', place, *options]
    assert compare.main(argv, call=call) == code
    return started

  return again


def lines_of(folder):
  text = (folder / 'results.jsonl').read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def test_what_is_finished_is_not_run_again_wherever_it_is(run, tmp_path):
  assert run() == ['dense', 'powersgd'], 'a run for each method'
  assert run('--report', methods='dense,sign') == [], 'a report runs nothing'
  whole = (tmp_path / 'study' / 'results.jsonl').read_bytes()
  for name in results.HEAVY:
    assert not [*(tmp_path / 'study').glob(f'dense-*/{name}')]
  (tmp_path / 'elsewhere').mkdir()
  copy = tmp_path / 'elsewhere' / 'results.jsonl'
  copy.write_bytes(whole)
  assert run(folder='elsewhere') == []
  assert run('--log.every', '2', '--checkpoint.every', '0') == []
  for name in ('table.md', 'report.html'):
    assert (copy.parent / name).exists(), 'it needs no folders of runs'
  copy.write_bytes(whole[:-1])
  assert run(folder='elsewhere') == ['powersgd'], 'its line was cut off'
  assert lines_of(tmp_path / 'elsewhere') == lines_of(tmp_path / 'study')


@pytest.mark.parametrize(
  'option',
  [
    '--steps=7',
    '--optimizer.b1=0.8',
    '--evaluation.sequences=4',
    '--mesh.replica=1',
    '--data.eval_fraction=0.2',
    '--compression.seed=1',
  ],
)
def test_what_gives_other_numbers_is_another_run(run, tmp_path, option):
  run(methods='dense')
  assert run(option, methods='dense') == ['dense']
  assert len(lines_of(tmp_path / 'study')) == 2, 'the old result stays'
  assert run(methods='dense') == []


def test_other_text_is_another_run(run, tmp_path):
  run(methods='dense')
  (tmp_path / 'texts' / '00.txt').write_text('changed ' * 99, encoding='utf-8')
  assert run(methods='dense') == ['dense']


def without(line, key):
  return {k: v for k, v in line.items() if k != key}


@pytest.mark.parametrize(
  'change',
  [
    lambda line: '<<<<<<< HEAD',
    lambda line: '\udcff',
    lambda line: 'null',
    lambda line: '{"identity": ' + '[' * 100_000,
    lambda line: json.dumps(line | {'identity': 3}),
    lambda line: json.dumps(without(line, 'summary')),
    lambda line: json.dumps(line | {'seconds_per_step': 'fast'}),
    lambda line: json.dumps(
      line | {'summary': without(line['summary'], 'num_workers')}
    ),
  ],
)
def test_a_damaged_file_of_results_is_named(run, tmp_path, capsys, change):
  run(methods='dense')
  path = tmp_path / 'study' / 'results.jsonl'
  text = change(lines_of(tmp_path / 'study')[0])
  with path.open('a', encoding='utf-8', errors='surrogateescape') as file:
    file.write(f'{text}\n')
  assert run(code=2) == []
  assert capsys.readouterr().err.startswith(
    f'error: {path} is damaged: line 2 must hold '
  )


def test_options_that_contradict_each_other(path, started, capsys):
  for options, key in (
    (['--seeds', '1,2', '--data.seed', '3'], 'data.seed'),
    (['--learning_rates=1', '--optimizer.learning_rate=1'], '.learning_rate'),
    (['--compression.method', 'dense'], 'compression.method'),
    (['--steps', '3', '--steps', '4'], '--steps must be given once'),
    (['--seeds', '1', '--seeds', '2'], '--seeds must be given once'),
  ):
    argv = [path, '--compressors', 'powersgd', *options]
    assert compare.main(argv, call=started) == 2
    error = capsys.readouterr().err
    assert key in error and error.count('\n') == 1
  assert not started


def test_an_entry_may_set_what_an_option_sets_for_the_others(path):
  asked = grid.Choices(
    path,
    ('--compression.rank', '3', '--steps=7'),
    (grid.entry('powersgd:rank=5'), grid.entry('greedylore')),
  )
  runs = grid.runs(asked, list(grid.variants(asked, lambda *_: None)))
  assert [run.config.compression.rank for run in runs] == [5, 3]
  for run in runs:
    assert run.config.steps == 7
    assert command_line.parse([*run.options], 'train')[0] == run.config


def test_a_run_that_fails_ends_the_study_and_the_others_stay(
  run, started, tmp_path, capsys
):
  fails = lambda words: 7 if 'range_finder' in words else started(words)
  methods = 'dense,range_finder,powersgd'
  assert run(methods=methods, code=7, call=fails) == ['dense']
  out = capsys.readouterr().out
  assert '[2/3] range_finder (about ' in out
  assert ' ended with exit code 7.\n' in out
  assert 'Rerun the same command' not in out, 'it would fail again'
  assert '| dense |' in (tmp_path / 'study' / 'table.md').read_text()
  assert run(methods=methods) == ['range_finder', 'powersgd']
  assert [x['name'] for x in lines_of(tmp_path / 'study')] == [
    'dense',
    'range_finder',
    'powersgd',
  ]


def test_a_report_without_finished_runs_says_what_to_do(run, capsys):
  run('--report', code=2)
  out, err = capsys.readouterr()
  assert not out
  assert err.startswith('error: --report needs finished runs, but ')
  assert err.count('\n') == 1 and 'leave --report out' in err


def test_ctrl_c_leaves_a_table_and_says_how_to_resume(
  run, started, tmp_path, capsys
):
  def interrupted(words):
    if 'powersgd' in words:
      raise KeyboardInterrupt
    return started(words)

  assert run(code=130, call=interrupted) == ['dense']
  assert 'Rerun the same command to resume' in capsys.readouterr().out
  assert '| dense |' in (tmp_path / 'study' / 'table.md').read_text()
  other = {'methods': 'powersgd', 'folder': 'none', 'call': interrupted}
  assert run('--seeds', '1', code=130, **other) == []
  assert not (tmp_path / 'none').exists(), 'no results, no table, no lock'


@pytest.mark.slow
def test_two_methods_are_really_trained(path, tmp_path, capfd):
  """The only test here in which something is trained."""
  argv = [
    path,
    '--compressors',
    'dense,powersgd',
    '--budgets',
    '1.6',
    '--seeds',
    '5',
    '--compression.embeddings',
    'True',
    '--workdir',
    str(tmp_path),
  ]
  assert compare.main(argv) == 0
  out = capfd.readouterr().out
  assert '[1/2] dense, seed 5\n' in out
  assert 'step 6' in out, 'what a run says is to be seen'
  dense, compressed = lines_of(tmp_path)
  rank = compressed['knob']['rank']
  assert compressed['name'] == f'powersgd-rank{rank}-seed5'
  (file,) = tmp_path.glob(f'{compressed["name"]}-*/config.json')
  done = json.loads(file.read_text())
  assert done['compression']['rank'] == rank
  assert (dense['budget'], compressed['budget']) == (None, 1.6)
  for line in dense, compressed:
    assert [x['step'] for x in line['curve']['evaluations']] == [3, 6]
    assert [x['step'] for x in line['curve']['training']] == [*range(1, 7)]
    assert line['seconds_per_step'] > 0
  assert not [*tmp_path.glob('dense-seed5-*/checkpoints')]
  assert (tmp_path / 'compare.png').stat().st_size > 10_000
  page = pages.parse((tmp_path / 'report.html').read_text(encoding='utf-8'))
  links = [x.get('href') for x in page.iter('a')]
  reports = [x for x in links if x.endswith('/report.html')]
  assert len(reports) == 2
  for name in reports:
    of_run = pages.parse((tmp_path / name).read_text(encoding='utf-8'))
    assert 'steps so far' not in pages.text_of(of_run), 'it is of the end'
  assert compare.main(argv) == 0
  assert '2 of 2 runs are finished' in capfd.readouterr().out


def test_a_study_of_which_nothing_is_left_says_so(path, tmp_path, capsys):
  words = ['--compressors=powersgd', '--budgets=1e9', f'--workdir={tmp_path}/s']
  assert compare.main([path, *words], call=Calls()) == 2
  said = capsys.readouterr().err
  assert said.startswith('error: a study needs at least one run')
  assert said.count('\n') == 1
