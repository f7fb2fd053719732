"""`python -m benchmarks.soak.fuzz`: damaged and hostile files, by the thousand.

Every format that the trainer reads from strangers is damaged at random: flipped
bits, cut and grown files, absurd sizes and numbers, deep nesting, paths out of
the folder, symbolic links, FIFOs, devices. Reading it must end in success or
one clear line, within a time and a bound on memory, and change no file outside
the folder. The inputs of a seed are always the same.
"""

import argparse
import collections
from collections.abc import Callable, Iterator
import dataclasses
import faulthandler
import hashlib
import json
import math
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from typing import Any

from benchmarks import machine

ROOT = pathlib.Path(__file__).parents[2]
MEGABYTES = 256
"""What reading a damaged sample may take in addition to what the process
has."""
_SECONDS = 20
# Beyond this a process gets no more, so an absurd size ends it alone.
_LIMIT = 6 << 30
_INTEGERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
_NUMBERS = (
  '-1',
  '0',
  '99999999999',
  '1e999',
  '-1e999',
  'NaN',
  '0.5',
  '9' * 5000,
)
_WORDS = ('null', 'true', '"x"', '{}', '[]', '""')


# ---- the formats: a sample of each, and what reads it ----


@dataclasses.dataclass(frozen=True)
class Format:
  """What strangers give."""

  make: Callable[[pathlib.Path], None]
  """Writes a sample into an empty folder."""
  read: Callable[[pathlib.Path], None]
  """Reads it as the trainer does."""
  expected: type[Exception] | tuple[type[Exception], ...] = (
    ValueError,
    OSError,
    ImportError,
  )
  """What `python -m train` turns into one line."""


def _make_configuration(folder: pathlib.Path) -> None:
  source = ROOT / 'configs' / 'studies' / 'family.py'
  shutil.copy(source, folder / 'mine.py')


def _read_configuration(folder: pathlib.Path) -> None:
  from train.config import reader

  reader.read(str(folder / 'mine.py'))


_LINES = ['one fox jumps', 'over the lazy dog', 'again and again'] * 20


def _make_hugging_face(folder: pathlib.Path) -> None:
  from train.data import tokenizers

  tokenizers.train(_LINES, 300, str(folder / 'tokenizer.json'))


def _make_sentencepiece(folder: pathlib.Path) -> None:
  import sentencepiece

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_LINES),
    model_prefix=str(folder / 'tokenizer'),
    vocab_size=300,
    model_type='bpe',
    byte_fallback=True,
    minloglevel=2,
  )
  (folder / 'tokenizer.vocab').unlink()


def _read_tokenizer(folder: pathlib.Path, name: str) -> None:
  from train.data import tokenizers

  found = tokenizers.load(str(folder / name))
  ids = tokenizers.encode_document(found, ' '.join(_LINES).encode())
  assert not len(ids) or int(ids.max()) < found.vocab_size


def _make_pretrained(folder: pathlib.Path) -> None:
  import jax
  import numpy as np
  from safetensors import numpy as safetensors

  from train.models import bert, pretrained

  told = {
    'model_type': 'bert',
    'vocab_size': 13,
    'hidden_size': 8,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 12,
    'max_position_embeddings': 7,
    'type_vocab_size': 2,
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-12,
    'pad_token_id': 0,
  }
  (folder / 'config.json').write_text(json.dumps(told))
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(bert.Network(_bert_sizes(), outputs=2).init, 0)
  arrays = {}
  for path, x in jax.tree_util.tree_leaves_with_path(shapes):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if stored := pretrained.stored_name(name):
      shape = x.shape[::-1] if name.endswith('/kernel') else x.shape
      arrays[stored] = np.float32(rng.normal(size=shape))
  names = sorted(arrays)
  parts = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
  for file, of in parts.items():
    safetensors.save_file({x: arrays[x] for x in of}, folder / file)
  index = {name: file for file, of in parts.items() for name in of}
  (folder / 'model.safetensors.index.json').write_text(
    json.dumps({'metadata': {}, 'weight_map': index})
  )


def _bert_sizes() -> Any:
  from train.models import bert

  return bert.Sizes(
    vocab_size=13,
    width=8,
    layers=1,
    heads=2,
    feed_forward=12,
    positions=7,
    segments=2,
    first_position=0,
    norm_eps=1e-12,
    dtype='float32',
  )


def _read_pretrained(folder: pathlib.Path) -> None:
  import jax

  from train.models import bert, pretrained

  found = pretrained.Pretrained(str(folder))
  network = bert.Network(found.sizes, outputs=2)
  found.check(jax.eval_shape(network.init, 0))
  if found.sizes == _bert_sizes():  # Other ones would be compiled each time.
    found.into(_initial_bert())


def _initial_bert() -> Any:
  import jax

  from train.models import bert

  if not _CACHE:
    _CACHE['bert'] = jax.jit(bert.Network(_bert_sizes(), outputs=2).init)(0)
  return _CACHE['bert']


_CACHE: dict[str, Any] = {}


def _make_data_set(folder: pathlib.Path) -> None:
  from train import prepare
  from train.data import datasets, sources

  features = datasets.library().features
  texts = {'text': features.Text()}
  part = lambda: ({'text': line * 20} for line in _LINES)
  source = sources.Source(texts, {'train': part, 'validation': part})
  prepare.write('mine', folder, source)


def _read_data_set(folder: pathlib.Path) -> None:
  from train.data import datasets

  found = datasets.read('mine', str(folder))
  for part in (found.train, found.held_out):
    if part is not None:
      for example in part:
        assert isinstance(example, dict)


def _make_results(folder: pathlib.Path) -> None:
  source = ROOT / 'experiments' / 'digits' / 'results.jsonl'
  if not source.exists():
    source = ROOT / 'experiments' / 'family' / 'results.jsonl'
  lines = source.read_text('utf-8').splitlines(keepends=True)
  (folder / 'results.jsonl').write_text(''.join(lines[:3]), 'utf-8')


def _read_results(folder: pathlib.Path) -> None:
  from train.study import results

  results.Results(folder / 'results.jsonl')


def _make_checkpoint(folder: pathlib.Path) -> None:
  from train.run import checkpoint

  now = _snapshot(1)
  with _checkpoints(folder) as checkpoints:
    checkpoints.save(
      dataclasses.replace(
        now,
        progress=checkpoint.Progress(
          data={'next_index': 3}, bytes_sent=10, seconds=1.5
        ),
      )
    )


def _read_checkpoint(folder: pathlib.Path) -> None:
  from train.run import lock

  with lock.claimed(folder), _checkpoints(folder) as checkpoints:
    checkpoints.latest(_snapshot(0))


def _checkpoints(folder: pathlib.Path) -> Any:
  from train.config.schema import Config
  from train.run import checkpoint

  return checkpoint.Checkpoints(
    folder / 'checkpoints', Config(), _mesh(), data={}, is_elastic=True
  )


def _mesh() -> Any:
  import jax
  import numpy as np

  return jax.sharding.Mesh(np.array(jax.devices()[:1]), ('replica',))


def _snapshot(step: int) -> Any:
  import jax
  import jax.numpy as jnp
  import optax

  from train.run import checkpoint

  place = jax.sharding.NamedSharding(_mesh(), jax.sharding.PartitionSpec())
  params = {'a': jnp.arange(300.0), 'b': jnp.full((4, 5), 1.0 + step)}
  params = jax.device_put(params, place)
  state = jax.device_put(optax.adam(1e-3).init(params), place)
  return checkpoint.Snapshot(step, params, state, checkpoint.Progress())


def _make_work_folder(folder: pathlib.Path) -> None:
  _write_work_folder(folder)
  (folder / 'lock').write_text('process 1 on host since then')
  for name in ('config', 'metrics', 'summary'):
    (folder / f'{name}.partial').write_text('left by a process that was killed')


def _write_work_folder(folder: pathlib.Path) -> None:
  """What a run writes, apart from checkpoints and the figure."""
  from train.run import json_files, lock, metrics, paths

  with lock.held(folder):
    json_files.write(folder / paths.CONFIG, {'steps': 3})
    with metrics.Metrics(folder, 1, tensorboard=True) as journal:
      sent = {'bytes_sent': 1, 'dense_bytes': 2}
      journal.write(1, loss=2.0, eval_loss=2.0, seconds=1.0, **sent)
      json_files.write(folder / paths.SUMMARY, {'steps': 3})


def _make_texts(folder: pathlib.Path) -> None:
  import gzip

  lines = ''.join(json.dumps({'text': x}) + '\n' for x in _LINES)
  (folder / 'a.jsonl').write_text(lines)
  (folder / 'b.json').write_text(f'[{",".join(lines.splitlines())}]')
  (folder / 'c.csv').write_text('text,label\n' + 'a b,1\n"c ""d""",0\n' * 20)
  (folder / 'd.txt').write_text('\n'.join(_LINES))
  (folder / 'e.txt.gz').write_bytes(gzip.compress(' '.join(_LINES).encode()))
  import pyarrow
  import pyarrow.parquet

  table = pyarrow.table({'text': _LINES})
  pyarrow.parquet.write_table(table, folder / 'f.parquet')


def _read_texts(folder: pathlib.Path) -> None:
  from train.data import corpus, files

  for path in corpus.matching_paths([f'{folder}/*'], 'data.files'):
    for text in files.texts(path, 'text'):
      assert isinstance(text, bytes)
    if path.endswith('.csv'):
      for _ in files.records(path):
        pass


def _usage_error() -> type[Exception]:
  from train.config import exit_codes

  return exit_codes.UsageError


FORMATS = {
  'configuration': Format(
    _make_configuration, _read_configuration, _usage_error()
  ),
  'tokenizer.json': Format(
    _make_hugging_face, lambda x: _read_tokenizer(x, 'tokenizer.json')
  ),
  'sentencepiece': Format(
    _make_sentencepiece, lambda x: _read_tokenizer(x, 'tokenizer.model')
  ),
  'safetensors': Format(_make_pretrained, _read_pretrained),
  'array_record': Format(_make_data_set, _read_data_set),
  'texts': Format(_make_texts, _read_texts),
  'results.jsonl': Format(_make_results, _read_results),
  'checkpoint': Format(_make_checkpoint, _read_checkpoint),
  'work folder': Format(_make_work_folder, _write_work_folder),
}


# ---- the damage ----

Mutation = Callable[[random.Random, pathlib.Path, pathlib.Path], None]


def _of_bytes(change: Callable[[random.Random, bytearray], None]) -> Mutation:
  def mutation(
    rng: random.Random, path: pathlib.Path, outside: pathlib.Path
  ) -> None:
    content = bytearray(path.read_bytes())
    change(rng, content)
    path.write_bytes(content)

  return mutation


def _flip(rng: random.Random, content: bytearray) -> None:
  for _ in range(rng.choice((1, 1, 2, 16))):
    if content:
      content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, content: bytearray) -> None:
  del content[rng.randrange(len(content) + 1) :]


def _grow(rng: random.Random, content: bytearray) -> None:
  content += rng.choice((bytes(1000), rng.randbytes(1000), bytes(content)))


def _clear(rng: random.Random, content: bytearray) -> None:
  start = rng.randrange(len(content) + 1)
  stop = min(len(content), start + rng.choice((1, 8, 100, 10**6)))
  content[start:stop] = bytes(stop - start)


def _size(rng: random.Random, content: bytearray) -> None:
  """An absurd integer, most often near the beginning or the end."""
  width = rng.choice((4, 8))
  number = rng.choice(_INTEGERS) % (1 << 8 * width)
  last = max(0, len(content) - width)
  place = rng.choice((0, min(8, last), last, rng.randrange(last + 1)))
  content[place : place + width] = number.to_bytes(
    width, rng.choice(('little', 'big'))
  )


def _number(rng: random.Random, content: bytearray) -> None:
  """Another value for a number of a text."""
  found = [*re.finditer(rb'-?\d[\d.e+-]*', bytes(content))]
  if found:
    one = rng.choice(found)
    other = rng.choice((*_NUMBERS, *_WORDS)).encode()
    content[one.start() : one.end()] = other


def _value(rng: random.Random, content: bytearray) -> None:
  """Another value somewhere in JSON, JSON lines or a header of safetensors."""
  text = bytes(content)
  size = int.from_bytes(text[:8], 'little')
  parts = text.split(b'\n') if text.count(b'\n{') else [text]
  if text[8:9] == b'{' and size <= len(text):
    parts = [text[8 : 8 + size]]
  part = rng.choice(parts)
  try:
    changed = _other_value(rng, json.loads(part))
  except (ValueError, RecursionError):
    return _number(rng, content)
  new = json.dumps(changed).encode()
  start = text.find(part)
  content[start : start + len(part)] = new
  if start == 8:
    content[:8] = len(new).to_bytes(8, 'little')


def _other_value(rng: random.Random, tree: Any) -> Any:
  """A tree of JSON in which one node, at any depth, is another one."""
  if isinstance(tree, (dict, list)) and tree and rng.random() < 0.9:
    keys = [*tree] if isinstance(tree, dict) else [*range(len(tree))]
    key = rng.choice(keys)
    if rng.random() < 0.1:
      tree.pop(key)
    elif isinstance(tree, dict) and rng.random() < 0.1:
      tree[rng.choice(('', '../x', 'a\0', *map(str, keys)))] = tree.pop(key)
    else:
      tree[key] = _other_value(rng, tree[key])
    return tree
  if isinstance(tree, (int, float)) and rng.random() < 0.7:
    near = (tree + 1, tree - 1, -tree, 2 * tree, float(tree), math.nan)
    return rng.choice((*near, *_INTEGERS, -(2**31), 10**400, 1e308))
  deep: list[Any] = []
  for _ in range(rng.choice((1, 500))):
    deep = [deep]
  others = (None, True, '', 'x', {}, [], deep, '../../x', 'a\0b', 'x' * 10**6)
  return rng.choice((*others, [0] * 10**5))


def _nest(rng: random.Random, content: bytearray) -> None:
  deep = rng.choice((b'[', b'{"a":', b'(', b'-')) * rng.choice((100, 100_000))
  if rng.random() < 0.3:
    content[:] = deep
    return
  places = [m.start() for m in re.finditer(rb'[\d"\[{]', bytes(content))]
  place = rng.choice(places) if places else 0
  content[place:place] = deep


def _escape(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  """A name that leads out of the folder, in the place of a string."""
  content = bytearray(path.read_bytes())
  names = (
    f'{outside}/escaped',
    '../' * rng.randrange(1, 9) + f'{outside.name}/escaped',
    f'../{outside.name}/sentinel',
    '/dev/zero',
    'a\0b',
    'x' * 100_000,
  )
  found = [*re.finditer(rb'"[^"\\]{1,80}"|\'[^\'\\]{1,80}\'', bytes(content))]
  name = rng.choice(names).encode()
  if found:
    one = rng.choice(found)
    content[one.start() + 1 : one.end() - 1] = name
  else:  # In a binary file: of equal length, so that sizes stay true.
    place = rng.randrange(len(content) + 1)
    content[place : place + len(name)] = name[: len(content) - place]
  path.write_bytes(content)


def _link(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  targets = (
    outside / 'sentinel',
    outside / 'copy',
    outside / 'missing',
    pathlib.Path('/dev/zero'),
    pathlib.Path('/dev/null'),
    path,
    outside,
  )
  target = rng.choice(targets)
  shutil.copy(path, outside / 'copy')
  path.unlink()
  path.symlink_to(target)


def _fifo(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  path.unlink()
  os.mkfifo(path)


def _folder(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  path.unlink()
  path.mkdir()


def _delete(
  rng: random.Random, path: pathlib.Path, outside: pathlib.Path
) -> None:
  path.unlink()


MUTATIONS: dict[str, Mutation] = {
  'flip': _of_bytes(_flip),
  'cut': _of_bytes(_cut),
  'grow': _of_bytes(_grow),
  'clear': _of_bytes(_clear),
  'size': _of_bytes(_size),
  'number': _of_bytes(_number),
  'value': _of_bytes(_value),
  'nest': _of_bytes(_nest),
  'escape': _escape,
  'link': _link,
  'fifo': _fifo,
  'folder': _folder,
  'delete': _delete,
}


# ---- one process reads many inputs, another one watches it ----


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of an input."""

  index: int
  what: str
  """'flip of model.safetensors'."""
  result: str
  """'read', 'refused', or a fault: 'crashed or hung', 'wrong error', 'memory',
  'changed a file outside'."""
  said: str = ''
  megabytes: float = 0.0

  @property
  def is_fault(self) -> bool:
    """Whether this must not be."""
    return self.result not in ('read', 'refused')


def fuzz(name: str, inputs: int, seed: int = 0) -> list[Outcome]:
  """What becomes of so many damaged inputs of a format, in their order."""
  found: list[Outcome] = []
  with tempfile.TemporaryDirectory() as folder:
    while len(found) < inputs:
      numbers = [str(x) for x in (seed, len(found), inputs)]
      words = ['-m', 'benchmarks.soak.fuzz', '--worker', name, folder, *numbers]
      done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        check=False,
      )
      begun = None
      for line in done.stdout.decode(errors='replace').splitlines():
        if line.startswith('begin '):
          begun = json.loads(line.removeprefix('begin '))
        elif line.startswith('end '):
          found.append(Outcome(**json.loads(line.removeprefix('end '))))
          begun = None
      if begun is not None:
        error = done.stderr.decode(errors='replace')
        code = f'exit code {done.returncode}: {error[-1500:]}'
        found.append(Outcome(**begun, result='crashed or hung', said=code))
      elif done.returncode:
        raise RuntimeError(done.stderr.decode(errors='replace')[-3000:])
  return found


def _work(name: str, root: str, seed: int, first: int, last: int) -> None:
  """Reads inputs; prints a line before and after each of them."""
  one = FORMATS[name]
  folder = pathlib.Path(root)
  sample, outside = folder / 'sample', folder / 'outside'
  if not sample.exists():
    sample.mkdir()
    one.make(sample)
  soft = resource.getrlimit(resource.RLIMIT_AS)[1]
  shutil.rmtree(folder / 'input', ignore_errors=True)
  shutil.copytree(sample, folder / 'input')
  one.read(folder / 'input')  # It has to be read without damage.
  resource.setrlimit(resource.RLIMIT_AS, (_size_of_process() + _LIMIT, soft))
  for index in range(first, last):
    rng = random.Random(f'{name} {seed} {index}')
    shutil.rmtree(folder / 'input', ignore_errors=True)
    shutil.copytree(sample, folder / 'input')
    shutil.rmtree(outside, ignore_errors=True)
    outside.mkdir()
    (outside / 'sentinel').write_text('as it was')
    what = _damage(rng, folder / 'input', outside)
    _print('begin', {'index': index, 'what': what})
    before = _state_of(folder)
    faulthandler.dump_traceback_later(_SECONDS, exit=True)
    result, said, megabytes = _outcome(one, folder / 'input')
    faulthandler.cancel_dump_traceback_later()
    if (after := _state_of(folder)) != before:
      result, said = 'changed a file outside', f'{before} {after} {said}'
    elif megabytes > MEGABYTES:
      result = 'memory'
    _print(
      'end', dataclasses.asdict(Outcome(index, what, result, said, megabytes))
    )


def _damage(
  rng: random.Random, folder: pathlib.Path, outside: pathlib.Path
) -> str:
  """Damages one file, sometimes in several ways; says which."""
  files = sorted(x for x in folder.rglob('*') if x.is_file())
  path, names = rng.choice(files), []
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    # What is not about the content is the same in every place.
    weights = [4 if i < 8 else 1 for i in range(len(MUTATIONS))]
    (name,) = rng.choices([*MUTATIONS], weights)
    if path.is_file() and not path.is_symlink():
      MUTATIONS[name](rng, path, outside)
      names.append(name)
  return f'{", ".join(names)} of {path.relative_to(folder)}'


def _outcome(one: Format, folder: pathlib.Path) -> tuple[str, str, float]:
  """Reads an input: what came of it, what was said, and megabytes."""
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  before = _megabytes('VmRSS')
  try:
    one.read(folder)
    result, said = 'read', ''
  except one.expected as error:
    from train.config import exit_codes

    result, said = 'refused', exit_codes.one_line(error)
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    result, said = 'wrong error', traceback.format_exc()[-1500:]
  return result, said, round(_megabytes('VmHWM') - before, 1)


def _state_of(folder: pathlib.Path) -> dict[str, str]:
  """What is outside the input, with the hashes of files."""
  found = {str(x.name): '' for x in folder.iterdir()}
  for path in (folder / 'outside').rglob('*'):
    if path.is_file():
      found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
  return found


def _megabytes(key: str) -> float:
  text = pathlib.Path('/proc/self/status').read_text()
  found = re.search(rf'{key}:\s+(\d+) kB', text)
  assert found
  return int(found[1]) / 1000


def _size_of_process() -> int:
  return int(_megabytes('VmSize') * 1e6)


def _print(word: str, value: dict[str, Any]) -> None:
  print(word, json.dumps(value), flush=True)


def faults(outcomes: list[Outcome]) -> Iterator[str]:
  """What must not be, one line each."""
  for x in outcomes:
    if x.is_fault:
      yield f'input {x.index} ({x.what}): {x.result}, {x.said}'


def main() -> int:
  """Prints a table; 1 if a single input led to a fault."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--inputs', type=int, default=2000)
  parser.add_argument('--seed', type=int, default=1)
  parser.add_argument('--formats', nargs='*', default=[*FORMATS])
  parser.add_argument('--worker', nargs=5, default=None)
  options = parser.parse_args()
  if options.worker:
    name, root, *numbers = options.worker
    _work(name, root, *map(int, numbers))
    return 0
  print('| format | inputs | read | refused | faults | most MB |')
  print('|---|---|---|---|---|---|')
  is_good = True
  for name in options.formats:
    found = fuzz(name, options.inputs, options.seed)
    count = collections.Counter(x.result for x in found)
    wrong = [*faults(found)]
    is_good = is_good and not wrong
    most = max(x.megabytes for x in found)
    print(
      f'| {name} | {len(found):,} | {count["read"]:,} | {count["refused"]:,} |'
      f' {len(wrong)} | {most:.0f} |',
      flush=True,
    )
    for line in wrong:
      print(f'  {line}', file=sys.stderr, flush=True)
  print(f'\nSeed {options.seed}, {machine.describe()}.')
  return 0 if is_good else 1


if __name__ == '__main__':
  sys.exit(main())
