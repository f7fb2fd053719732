"""Does a command do what it says, or say in one line why it cannot?"""

import ast
import dataclasses
import pathlib
import runpy
import subprocess
import sys
import types

import pytest

import train
from train import __main__ as program
from train.config import command_line as command
from train.config import schema as config
import train.run

ROOT = pathlib.Path(train.__file__).parent.parent
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
QUICKSTART = str(ROOT / 'configs' / 'quickstart.py')


@pytest.fixture
def replace_run(monkeypatch):
  """Puts a function in the place of train.loop.run; JAX stays out of it."""

  def put(run):
    loop = types.SimpleNamespace(run=run)
    monkeypatch.setattr(train.run, 'loop', loop, raising=False)

  return put


@pytest.fixture
def refused(capsys, replace_run):
  """Gives the one line that a wrong command leaves on stderr."""
  replace_run(lambda *_: pytest.fail('The command was accepted.'))

  def run(*argv):
    assert program.main([*argv]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith('error: ')
    assert err.endswith('\n')
    assert err.count('\n') == 1
    return err.removeprefix('error: ').removesuffix('\n')

  return run


@pytest.fixture
def write(tmp_path):
  """Writes a file of settings and gives its path."""

  def run(text, name='mine.py'):
    path = tmp_path / name
    path.write_text(text, encoding='utf-8')
    return str(path)

  return run


def parse(*argv):
  return command.parse([*argv], 'train')[0]


# Right commands.


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_file_of_configs_is_read_as_python_would_run_it(path):
  assert command.load(str(path)) == runpy.run_path(str(path))['config']
  described = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
  assert described, f'{path} must begin with a docstring on what it is for'


def test_options_beat_the_file_and_the_file_beats_the_defaults(write):
  path = write(
    'config = Config(steps=5, seed=6, model=Model(width=64, layers=3))'
  )
  options = '--model.width=96 --log.every 9 --steps=7'
  found = parse(path, *options.split())
  assert found == config.Config(
    steps=7,
    seed=6,
    model=config.Model(width=96, layers=3),
    log=config.Log(every=9),
  )


def test_values_that_only_fit_together_may_come_one_by_one():
  found = parse(QUICKSTART, '--model.width', '36', '--model.heads', '6')
  assert (found.model.width, found.model.heads) == (36, 6)


@pytest.mark.parametrize(
  ('key', 'words', 'value'),
  [
    ('steps', ['1_000'], 1000),
    ('workdir', ['7'], '7'),
    ('workdir', ["'a'"], "'a'"),
    ('optimizer.learning_rate', ['3e-4'], 3e-4),
    ('optimizer.b1', ['None'], None),
    ('compression.error_feedback', ['False'], False),
    ('compression.error_dtype', ['bfloat16'], 'bfloat16'),
    ('compression.error_dtype', ['None'], None),
  ],
)
def test_words_become_values_of_the_type_of_the_key(key, words, value):
  section, _, name = key.rpartition('.')
  found = parse(QUICKSTART, f'--{key}', *words)
  found = getattr(getattr(found, section) if section else found, name)
  assert found == value
  assert type(found) is type(value)


def test_several_files_follow_one_option():
  options = ('--data.files', 'a', '*.txt', '--data.source', 'files')
  assert parse(QUICKSTART, *options).data.files == ('a', '*.txt')


def test_a_run_gets_its_settings_and_a_folder(replace_run, write):
  started = []
  replace_run(lambda *given: started.append(given))
  path = write('config = Config()')
  assert program.main([path, '--steps', '3']) == 0
  assert program.main([path, '--workdir', 'here']) == 0
  assert started == [
    (config.Config(steps=3, workdir='runs/mine'), pathlib.Path('runs/mine')),
    (config.Config(workdir='here'), pathlib.Path('here')),
  ]


# Help.


def test_keys_are_those_of_the_configuration():
  expected = []
  for name, value in dataclasses.asdict(config.Config()).items():
    inner = value if isinstance(value, dict) else None
    expected += [f'{name}.{key}' for key in inner] if inner else [name]
  assert command.keys() == expected


@pytest.mark.parametrize('option', ['--help', '-h'])
def test_help_lists_every_key(option, capsys):
  with pytest.raises(SystemExit) as stop:
    program.main([option])
  assert not stop.value.code
  shown = capsys.readouterr().out
  assert 'python -m train CONFIG' in shown
  keys = command.keys()
  missing = [key for key in keys if f'--{key} ' not in shown]
  assert not missing, 'tyro no longer shows these; see command._print_help'


def test_help_for_a_file_shows_its_values(write, capsys):
  with pytest.raises(SystemExit):
    program.main([write('config = Config(steps=12345)'), '--help'])
  assert '(default: 12345)' in capsys.readouterr().out


# Wrong options.


@pytest.mark.parametrize(
  'key',
  [key for key, hint in command._types().items() if hint in (int, int | None)],
)
def test_every_integer_has_a_largest_value(refused, key):
  assert refused(QUICKSTART, f'--{key}', str(2**63)).startswith(
    f'{key} must be at most'
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      ['--compresion.rank', '3'],
      "unknown option --compresion.rank; the nearest is 'compression.rank'",
    ),
    (['--step=3'], "unknown option --step; the nearest is 'steps'"),
    (['extra'], "expected --section.key VALUE, got 'extra'"),
    (['--steps'], '--steps takes one value, got none'),
    (['--steps', '3', '4'], '--steps takes one value, got 3 4'),
    (['--steps', 'abc'], "steps must be an integer, got 'abc'."),
    (['--steps', '1.5'], "steps must be an integer, got '1.5'."),
    (
      ['--optimizer.learning_rate', 'nan'],
      "optimizer.learning_rate must be a finite number, got 'nan'.",
    ),
    (
      ['--optimizer.learning_rate', '1e999'],
      "optimizer.learning_rate must be a finite number, got '1e999'.",
    ),
    (
      ['--optimizer.learning_rate', '1e39'],
      "optimizer.learning_rate must be a finite number, got '1e39'.",
    ),
    (
      ['--optimizer.weight_decay', '1' + 400 * '0'],
      'optimizer.weight_decay must be a finite number or None, got'
      f" '1{78 * '0'} ....",
    ),
    (
      ['--optimizer.b1=x'],
      "optimizer.b1 must be a finite number or None, got 'x'.",
    ),
    (['--optimizer.b1', '1'], 'optimizer.b1 must be below 1, got 1.'),
    (['--optimizer.b2', '1.0'], 'optimizer.b2 must be below 1, got 1.0.'),
    (
      ['--compression.bits', '8.0'],
      "compression.bits must be one of 2, 4, 8, got '8.0'.",
    ),
    (
      ['--seed', '4294967296'],
      'seed must be at most 4294967295, got 4294967296.',
    ),
    (
      ['--compression.seed', '-1'],
      'compression.seed must be at least 0, got -1.',
    ),
    (
      ['--data.max_bytes', '9' * 30],
      f'data.max_bytes must be at most {2**63 - 1}, got {"9" * 30}.',
    ),
    (
      ['--steps', '9' * 5000],
      f"steps must be an integer, got '{79 * '9'} ....",
    ),
    (
      ['--steps', '[' * 5000],
      f"steps must be an integer, got '{79 * '['} ....",
    ),
    (['--steps', '3', '--steps=3'], '--steps must be given once, got it twice'),
    (
      ['--data.files', 'a', '--data.files', 'b'],
      '--data.files must be given once, got it twice',
    ),
    (
      ['--compression.error_feedback', 'no'],
      "compression.error_feedback must be True or False or 'ef21', got 'no'.",
    ),
    (
      ['--model.dtype', 'float8'],
      "model.dtype must be one of 'float32', 'bfloat16', 'float16',"
      " got 'float8'.",
    ),
    (['--steps', '0'], 'steps must be at least 1, got 0.'),
    (['--mesh.replica', '-3'], 'mesh.replica must be at least 0, got -3.'),
    (
      ['--optimizer.b2', '1.5'],
      'optimizer.b2 must be a fraction between 0 and 1, got 1.5.',
    ),
    (['--optimizer.eps', '-1'], 'optimizer.eps must be at least 0, got -1.'),
    (
      ['--model.width', '30'],
      'model.width must be a multiple of 2 * model.heads (rotary positions'
      ' pair up channels), got width=30, heads=4.',
    ),
    (
      ['--distributed.num_processes', '2'],
      'distributed.coordinator, .num_processes and .process_id go together,'
      ' got (None, 2, None).',
    ),
  ],
)
def test_a_wrong_option(refused, options, message):
  assert refused(QUICKSTART, *options) == message


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      ['--model.dropout', '0.5'],
      "model.dropout is only for model.name 'bert': leave it at 0.0, got 0.5.",
    ),
    (['--model.pretrained=x'], 'model.pretrained is only for'),
    (['--model.name=resnet8', '--model.scan=True'], 'model.scan is only for'),
    (['--model.name=resnet8', '--model.layers=3'], 'model.layers is only for'),
    (
      ['--model.name=bert', '--model.pretrained=x', '--model.width=32'],
      'model.width is only for a model without model.pretrained',
    ),
    (['--data.max_bytes', '10'], 'data.max_bytes is only for data sets of'),
    (['--data.crop', '4', '--data.flip', 'True'], 'data.crop is only for'),
    (['--data.data_dir', '/data'], 'data.data_dir is only for data sets by'),
    (
      ['--data.source=glue/mrpc', '--model.name=bert', '--data.held_out=a'],
      "data.held_out is only for model.name 'llama'",
    ),
    (
      ['--data.source=glue/mrpc', '--model.name=bert', '--data.stream=True'],
      "data.stream is only for model.name 'llama'",
    ),
    (
      ['--data.source=digits', '--model.name=resnet8', '--data.tokenizer=x'],
      "data.tokenizer is only for model.name 'llama' or 'bert'",
    ),
    (
      ['--data.source=c4/en', '--data.stream=True', '--data.eval_fraction=0.1'],
      'data.eval_fraction is only for data without a held-out part',
    ),
    (
      ['--compression.embeddings=False', '--compression.embedding_rank=3'],
      'compression.embedding_rank is only for compression.embeddings True',
    ),
    (
      ['--compression.method=tsr_adam', '--compression.error_feedback=ef21'],
      'compression.error_feedback is only for',
    ),
  ],
)
def test_a_key_that_the_run_would_not_read(refused, options, message):
  path = str(ROOT / 'configs' / 'quickstart.py')
  assert refused(path, *options).startswith(message)


@pytest.mark.parametrize(
  'options',
  [
    ['--data.source=c4/en', '--data.max_bytes=10', '--data.data_dir=/data'],
    ['--data.held_out', 'c4/en', '--data.max_bytes=10'],
    ['--data.source=digits', '--model.name=resnet8', '--data.crop=1'],
    ['--data.source=glue/mrpc', '--model.name=bert', '--model.dropout=0.1'],
    ['--compression.method=dense', '--compression.update_interval=7'],
  ],
)
def test_a_key_that_the_run_reads(options):
  parse(QUICKSTART, *options)


@pytest.mark.parametrize('argv', [[], [''], ['--steps', '3'], ['-x']])
def test_no_file(refused, argv):
  expected = 'expected python -m train CONFIG [--section.key VALUE ...]'
  assert refused(*argv) == expected


# Wrong files.


def test_a_file_that_is_not_there_or_no_text(refused, tmp_path):
  path = str(tmp_path / 'absent.py')
  assert refused(path) == f'{path}: No such file or directory'
  pathlib.Path(path).write_bytes(b'\xff\xfe\x00')
  assert refused(path).startswith(f'{path}: not a configuration: ')
  assert refused(str(tmp_path)) == f'{tmp_path}: Is a directory'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      'config = Config(stepz=3)',
      ", line 1: Config has no 'stepz'; the nearest is 'steps'",
    ),
    (
      '\nconfig = Config(\n  model=Model(widht=8))',
      ", line 3: Model has no 'widht'; the nearest is 'width'",
    ),
    (
      'config = Config(model=Modl(width=8))',
      ", line 1: there is no section 'Modl'; the nearest is 'Model'",
    ),
    ('config = Config(model=Data())', ', line 1: model must be a Model'),
    ('config = Config(seed=3, seed=4)', ", line 1: Config is given 'seed'"),
    (
      'config = Config(3)',
      ', line 1: expected a literal or a section with key=value, got Config(3)',
    ),
    ('config = Config(steps="3")', ', line 1: steps must be an integer, got'),
    ('config = Config(\n  steps=0,\n)', ', line 1: steps must be at least 1'),
    ('config = Config(', ": not a configuration: '(' was never closed"),
    ('config = Config(workdir="\0")', ': not a configuration: source code'),
    (
      'config = Config(optimizer=Optimizer(learning_rate=1e999))',
      ', line 1: optimizer.learning_rate must be a finite number, got inf.',
    ),
    (
      'config = Config(compression=Compression(bits=8.0))',
      ', line 1: compression.bits must be one of 2, 4, 8, got 8.0.',
    ),
    (f'config = Config(steps={3000 * "-"}1)', ': not a configuration: '),
    (f'config = Config(steps=1{5000 * "+1"})', ': not a configuration: '),
    (f'config = Config(steps={9000 * "["})', ': not a configuration: '),
    (f'config = {900 * "Config(data="}1{900 * ")"}', ': not a configuration: '),
    (f'config = Config(steps={5000 * "9"})', ': not a configuration: '),
    (
      '',
      ': a configuration is a docstring, imports and one assignment'
      ' config = Config(...), which is missing',
    ),
    (
      'config = Config()\nconfig = Config()',
      ': a configuration is a docstring,'
      ' imports and one assignment config = Config(...), line 2 is something',
    ),
  ],
)
def test_a_wrong_file(refused, write, text, message):
  path = write(text)
  assert refused(path).startswith(path + message)


@pytest.mark.parametrize(
  'text',
  [
    '{effect}\nconfig = Config()',
    'config = Config(steps={effect})',
    'config = Config(**{{"steps": {effect}}})',
    'config = Config(workdir=f"{{{effect}}}")',
    'config = Config(model=[Model() for _ in [{effect}]][0])',
    'config = (Config(), {effect})[0]',
    'def config(steps={effect}): pass',
  ],
)
def test_nothing_in_a_file_is_executed(refused, write, tmp_path, text):
  mark = tmp_path / 'executed'
  effect = f'pathlib.Path({str(mark)!r}).write_text(str(1))'
  imports = 'import pathlib\nfrom train.config import *\n'
  path = write(imports + text.format(effect=effect))
  assert path in refused(path)
  assert not mark.exists()
  runpy.run_path(path)  # Python itself would have left the mark.
  assert mark.exists()


def test_imports_of_a_file_are_not_followed(write, monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(tmp_path)
  write('raise RuntimeError("imported")', 'imported_by_mine.py')
  path = write('import imported_by_mine\nconfig = Config(steps=4)')
  assert command.load(path).steps == 4
  with pytest.raises(RuntimeError, match='imported'):
    runpy.run_path(path)


# What only shows in a process, or in a run.


def test_a_wrong_command_ends_with_2_and_never_starts_jax():
  done = subprocess.run(
    [sys.executable, '-X', 'importtime', '-m', 'train', QUICKSTART, '--x=1'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  said, imported = [], set()
  for line in done.stderr.splitlines():
    if line.startswith('import time:'):
      imported.add(line.split('|')[-1].strip())
    else:
      said.append(line)
  assert done.returncode == 2
  assert not done.stdout
  assert len(said) == 1
  assert said == ['error: unknown option --x']
  assert 'train.config.command_line' in imported
  assert not imported & {'jax', 'optax', 'flax', 'orbax'}


@pytest.mark.parametrize(
  'error',
  [
    ValueError('batch_size must be a multiple of the workers.'),
    NotADirectoryError(20, 'Not a directory', 'file/checkpoints'),
    ImportError('Reading x.json needs tokenizers: pip install tokenizers.'),
  ],
  ids=lambda error: type(error).__name__,
)
def test_what_a_run_cannot_do_is_one_line_too(refused, replace_run, error):
  def run(*_):
    raise error

  replace_run(run)
  assert refused(QUICKSTART) == str(error)
