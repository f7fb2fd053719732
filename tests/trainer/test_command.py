"""Does a command do what it says, or say in one line why it cannot?"""

import dataclasses
import pathlib
import re
import runpy
import subprocess
import sys
import types
import typing

import pytest

import train
from train import __main__ as program
from train import compare, launch
from train.config import command_line, reader, section
from train.config.schema import Config, Log, Model
import train.run

ROOT = pathlib.Path(train.__file__).parent.parent
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
IMPORT = 'from train.config.schema import *\n'
QUICKSTART = str(ROOT / 'configs' / 'quickstart.py')
VARIANT = "config = Config()\nvariants = {'a': dict(about='A.', "
PARTS = {
  f'{field.name}.': type(field.default)
  for field in dataclasses.fields(Config)
  if dataclasses.is_dataclass(field.default)
}


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
  return command_line.parse([*argv], 'train')[0]


# Right commands.


def as_python_runs(path):
  """The configurations of a file that is executed, by variant."""
  names = runpy.run_path(str(path))
  configs = {'': names.get('config') or names['base']}
  for name, changes in names.get('variants', {}).items():
    del changes['about']
    start = configs[changes.pop('like', '')]
    values = {
      key: dataclasses.replace(getattr(start, key), **value)
      if isinstance(value, dict)
      else value
      for key, value in changes.items()
    }
    configs[name] = dataclasses.replace(start, **values)
  return {k: v for k, v in configs.items() if k or 'config' in names}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_file_of_configs_is_read_as_python_would_run_it(path):
  entries = reader.read(str(path))
  assert as_python_runs(path) == {k: v.config for k, v in entries.items()}
  assert all(entry.about for entry in entries.values())


def test_every_configuration_is_listed_once_with_one_line(capsys):
  assert program.main(['--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  listed = [line.split()[0] for line in lines]
  assert all(len(line.split()) > 2 for line in lines)
  assert len({*map(command_line.name_of, listed)}) == len(listed) > 30
  configs = [repr(command_line.load(name)) for name in listed]
  assert len({*configs}) == len(configs), 'two names of one configuration'
  # Rows of the papers' tables.
  for row in (
    'configs/greedylore/llama.py:60m .* dense perplexity 33.44',
    'configs/greedylore/glue.py:sst2 .* r = 8 .930',
    'configs/greedylore/cifar.py:100 .* dense 75.91 %',
    'configs/tsr/llama.py:1b .* loss 3.08',
  ):
    assert re.search(row, '\n'.join(lines)), row


DOCUMENTS = [
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'Makefile')),
  *(
    path
    for folder in ('docs', 'launch', 'configs', 'benchmarks', 'experiments')
    for path in (ROOT / folder).rglob('*')
    if path.suffix in ('.md', '.py', '.yaml', '.sbatch')
  ),
]


def test_configurations_that_the_documents_name_exist():
  found = set()
  for path in DOCUMENTS:
    text = path.read_text(encoding='utf-8')
    for name in re.findall(r'\bconfigs/[\w/]+\.py(?::[a-z\d_]+)?', text):
      found.add(name)
      file, _, variant = name.partition(':')
      assert (ROOT / file).is_file(), f'{path} names {name}'
      assert not variant or variant in reader.read(str(ROOT / file)), name
  assert len(found) > 20


def test_a_variant_changes_single_keys_of_the_configuration(write):
  path = write(
    'config = Config(steps=5, model=Model(width=64, layers=3))\n'
    "variants = {'wide': dict(about='Wide.', model=dict(width=96)),\n"
    "  'long': dict(about='Long.', like='wide', steps=7)}"
  )
  assert parse(path).model == Model(width=64, layers=3)
  long = parse(f'{path}:long', '--seed', '2')
  model = Model(width=96, layers=3)
  assert long == Config(steps=7, seed=2, model=model)


def test_options_beat_the_file_and_the_file_beats_the_defaults(write):
  path = write(
    'config = Config(steps=5, seed=6, model=Model(width=64, layers=3))'
  )
  options = '--model.width=96 --log.every 9 --steps=7'
  found = parse(path, *options.split())
  assert found == Config(
    steps=7, seed=6, model=Model(width=96, layers=3), log=Log(every=9)
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


def test_hyphens_are_underscores():
  options = '--batch-size=7', '--optimizer.learning-rate', '3e-4'
  found = parse(QUICKSTART, *options)
  assert (found.batch_size, found.optimizer.learning_rate) == (7, 3e-4)


def test_several_files_follow_one_option():
  options = ('--data.files', 'a', '*.txt', '--data.source', 'files')
  assert parse(QUICKSTART, *options).data.files == ('a', '*.txt')


def test_a_run_gets_its_settings_and_a_folder(replace_run, write):
  started = []
  replace_run(lambda *given: started.append(given))
  path = write("config = Config()\nvariants = {'b': dict(about='B.', seed=1)}")
  assert program.main([path, '--steps', '3']) == 0
  assert program.main([path, '--workdir', 'here']) == 0
  assert program.main([f'{path}:b']) == 0
  assert started == [
    (Config(steps=3, workdir='runs/mine'), pathlib.Path('runs/mine')),
    (Config(workdir='here'), pathlib.Path('here')),
    (Config(seed=1, workdir='runs/mine_b'), pathlib.Path('runs/mine_b')),
  ]


# Help.


def test_keys_are_those_of_the_configuration():
  expected = []
  for name, value in dataclasses.asdict(Config()).items():
    inner = value if isinstance(value, dict) else None
    expected += [f'{name}.{key}' for key in inner] if inner else [name]
  assert command_line.keys() == expected


def test_help_lists_every_key_with_value_meaning_and_type(capsys):
  with pytest.raises(SystemExit) as stop:
    program.main(['--help'])
  assert not stop.value.code
  shown = capsys.readouterr().out
  assert 'python -m train CONFIG' in shown
  for key in ('plan', 'list', *command_line.keys()):
    name, _, field = key.rpartition('.')
    text = re.search(rf'^--{key} .*\n((?: {{6}}.*\n)+)', shown, re.MULTILINE)
    assert text, key
    if name:
      hint = typing.get_type_hints(PARTS[f'{name}.'])[field]
      of_type = f'({section.describe_type(hint)})'
      assert ' '.join(text[1].split()).endswith(of_type), key
      assert len(text[1].split()) > len(of_type.split()), f'{key} is explained'


@pytest.mark.parametrize('main', [program.main, compare.main, launch.main])
def test_help_lists_every_option_once(main, capsys):
  with pytest.raises(SystemExit):
    main(['--help'])
  options = re.findall(r'^--\S+', capsys.readouterr().out, re.MULTILINE)
  assert len(options) > 50
  assert len(options) == len({*options})


def test_help_for_a_file_shows_its_values(write, capsys):
  with pytest.raises(SystemExit):
    program.main([write('config = Config(steps=12345)'), '--help'])
  assert '--steps 12345\n' in capsys.readouterr().out


@pytest.mark.parametrize('words', [['-h'], [QUICKSTART, '-h', '--plan']])
def test_the_overview_fits_a_screen_and_names_every_section(words, capsys):
  with pytest.raises(SystemExit) as stop:
    program.main(words)
  assert not stop.value.code
  shown = capsys.readouterr().out
  lines = shown.splitlines()
  assert len(lines) <= 40
  assert max(map(len, lines)) <= 80
  assert lines[0] == 'usage: python -m train CONFIG [--section.key VALUE ...]'
  keys = command_line.keys()
  for key in keys:
    name, dot, _ = key.partition('.')
    assert (f'  --{name}.KEY ' if dot else f'--{name}') in shown, key


def test_help_for_a_section_lists_its_keys_only(write, capsys):
  path = write('config = Config(data=Data(sequence_length=77))')
  with pytest.raises(SystemExit):
    program.main([path, '--help', 'data'])
  shown = capsys.readouterr().out
  assert '--data.sequence_length 77\n' in shown
  keys = command_line.keys()
  listed = re.findall(r'^--(\S+)', shown, re.MULTILINE)
  assert listed == [x for x in keys if x.startswith('data.')]


def test_help_for_an_unknown_section_is_an_error(refused):
  assert refused('--help', 'modle').endswith("the nearest is 'model'")


# Wrong options.


@pytest.mark.parametrize(
  'key',
  [
    f'{prefix}{key}'
    for prefix, part in {'': Config, **PARTS}.items()
    for key, hint in typing.get_type_hints(part).items()
    if hint in (int, int | None)
  ],
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
    (['extra'], f"expected one CONFIG, got {QUICKSTART!r} and 'extra'"),
    (['--rank=3'], 'unknown option --rank; there is compression.rank'),
    (
      ['--seed=x', '--keep=3'],
      'unknown option --keep; there is checkpoint.keep, compression.keep',
    ),
    (['--plna'], "unknown option --plna; the nearest is 'plan'"),
    (['--plan', '--plan'], '--plan must be given once, got it twice'),
    (['--batch-size=x'], "batch_size must be an integer, got 'x'."),
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
      "compression.bits must be one of 1, 2, 4, 8, 16, got '8.0'.",
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
      "compression.error_feedback must be True or False, got 'no'.",
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
      ['--compression.method=tsr_adam', '--compression.stagger=True'],
      'compression.stagger is only for',
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


def test_a_variant_that_is_missing_or_unknown(refused, write):
  variants = "{'60m': dict(about='A.'), '1b': dict(about='B.')}"
  path = write(f'base = Config()\nvariants = {variants}')
  listed = f'expected {path}:VARIANT with one of 60m, 1b, got'
  assert refused(path) == f'{listed} none'
  assert refused(f'{path}:60n') == f"{listed} 60n; the nearest is '60m'"
  assert refused(f'{QUICKSTART}:x').endswith("got 'x': leave it out")


# Wrong files.


@pytest.mark.parametrize(
  ('word', 'near'),
  [
    ('configs/llama.py', 'configs/greedylore/llama.py'),
    ('llama_60m', 'configs/greedylore/llama.py'),
    ('quickstart.py', 'configs/quickstart.py'),
  ],
)
def test_a_file_that_is_not_there_gets_the_nearest(refused, word, near):
  message = refused(word)
  assert message.startswith(f'{word}: No such file or directory; the nearest')
  assert near in message


def test_a_file_that_is_not_there_or_no_text(refused, tmp_path):
  path = str(tmp_path / 'absent.py')
  assert refused(path) == f'{path}: No such file or directory'
  pathlib.Path(path).write_bytes(b'\xff\xfe\x00')
  assert refused(path).startswith(f'{path}: not a configuration: ')
  assert 'must be a regular file, got a folder' in refused(str(tmp_path))


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
      ', line 1: compression.bits must be one of 1, 2, 4, 8, 16, got 8.0.',
    ),
    (f'config = Config(steps={3000 * "-"}1)', ': not a configuration: '),
    (f'config = Config(steps=1{5000 * "+1"})', ': not a configuration: '),
    (f'config = Config(steps={9000 * "["})', ': not a configuration: '),
    (f'config = {900 * "Config(data="}1{900 * ")"}', ': not a configuration: '),
    (f'config = Config(steps={5000 * "9"})', ': not a configuration: '),
    (
      '',
      ': a configuration is a docstring, imports, config = Config(...) (or base'
      ' = ..., if it needs a variant) and possibly variants = {...}, of which'
      ' config or base is missing',
    ),
    (
      'config = Config()\nconfig = Config()',
      ': a configuration is a docstring',
    ),
    ('config = Config()\nbase = Config()', ': a configuration is a docstring'),
    ('config = Config()\nvariants = 3', ': a configuration is a docstring'),
    (
      f'{VARIANT}model=dict(widht=8))}}',
      ", line 2: Model has no 'widht'; the nearest is 'width'",
    ),
    (
      f'{VARIANT}modle=dict(width=8))}}',
      ", line 2: Config has no 'modle'; the nearest is 'model'",
    ),
    (
      f'{VARIANT}\n  model=dict(width=30))}}',
      ', line 3: model.width must be a multiple of 2',
    ),
    (f'{VARIANT}steps=0)}}', ', line 2: steps must be at least 1, got 0.'),
    (f'{VARIANT}steps=dict(a=1))}}', ', line 2: there is no section'),
    (f"{VARIANT}like='x', steps=3)}}", ', line 2: expected a new variant'),
    (
      "config = Config()\nvariants = {'a': dict(steps=3)}",
      ', line 2: expected a',
    ),
    (
      "config = Config()\nvariants = {3: dict(about='')}",
      ', line 2: expected a',
    ),
    (
      f"{VARIANT}), 'a': dict(about='B.')}}",
      ', line 2: expected a new variant',
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
    "config = Config()\nvariants = {{'a': dict(about='A.', steps={effect})}}",
    "config = Config()\nvariants = {{'a': dict(about=str({effect}))}}",
    'config = Config()\nvariants = {{{effect}: dict()}}',
  ],
)
def test_nothing_in_a_file_is_executed(refused, write, tmp_path, text):
  mark = tmp_path / 'executed'
  effect = f'pathlib.Path({str(mark)!r}).write_text(str(1))'
  path = write(f'import pathlib\n{IMPORT}{text.format(effect=effect)}')
  assert path in refused(path)
  assert not mark.exists()
  runpy.run_path(path)  # Python itself would have left the mark.
  assert mark.exists()


def test_imports_of_a_file_are_not_followed(write, monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(tmp_path)
  write('raise RuntimeError("imported")', 'imported_by_mine.py')
  path = write('import imported_by_mine\nconfig = Config(steps=4)')
  assert reader.load(path).steps == 4
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
