"""What strangers give: a sample of each format, and what reads it."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import shutil
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]


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

  config = {
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
  (folder / 'config.json').write_text(json.dumps(config))
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
  with _checkpoints(folder) as checkpoints:
    checkpoints.save(_snapshot(1))


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
  data = {'next_index': 3}
  progress = checkpoint.Progress(data=data, bytes_sent=10, seconds=1.5)
  return checkpoint.Snapshot(step, params, state, progress)


def _make_local_copies(folder: pathlib.Path) -> None:
  with _local_copies(folder) as copies:
    for step in (1, 2):
      copies.save(_snapshot(step))


def _read_local_copies(folder: pathlib.Path) -> None:
  from train.run import lock

  with (
    tempfile.TemporaryDirectory() as work,
    lock.claimed(pathlib.Path(work), str(folder)),
    _local_copies(folder) as copies,
  ):
    copies.latest(_snapshot(0))


def _local_copies(folder: pathlib.Path) -> Any:
  from train.config.schema import Checkpoint, Config
  from train.run import local_copies

  config = Config(checkpoint=Checkpoint(local=str(folder)))
  return local_copies.LocalCopies(config, _mesh(), data={})


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
  'local copies': Format(_make_local_copies, _read_local_copies),
  'work folder': Format(_make_work_folder, _write_work_folder),
}
