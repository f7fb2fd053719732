"""Pre-trained encoders: config.json and model.safetensors of Hugging Face.

Arrays are read with the safetensors package, from one file or from those that
model.safetensors.index.json names; no PyTorch, no pickle, and nothing is
downloaded.
"""

from collections.abc import Callable, Iterator
import contextlib
import hashlib
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np

from train.models import bert

_FILE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_DTYPES = ('F64', 'F32', 'F16', 'BF16')
# From the paths of parameters to names there; what follows is in _LEAVES.
_LAYER = r'encoder.layer.\1.'
_NAMES = (
  (r'embedding/token', r'embeddings.word_embeddings.weight'),
  (r'embedding/position', r'embeddings.position_embeddings.weight'),
  (r'embedding/segment', r'embeddings.token_type_embeddings.weight'),
  (r'embedding/norm/', r'embeddings.LayerNorm.'),
  (
    r'layers/(\d+)/attention/(query|key|value)/',
    rf'{_LAYER}attention.self.\2.',
  ),
  (r'layers/(\d+)/attention/output/', rf'{_LAYER}attention.output.dense.'),
  (r'layers/(\d+)/attention_norm/', rf'{_LAYER}attention.output.LayerNorm.'),
  (r'layers/(\d+)/feed_forward/up/', rf'{_LAYER}intermediate.dense.'),
  (r'layers/(\d+)/feed_forward/down/', rf'{_LAYER}output.dense.'),
  (r'layers/(\d+)/feed_forward_norm/', rf'{_LAYER}output.LayerNorm.'),
  (r'pooler/', r'pooler.dense.'),
)
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', '': ''}
# The oldest files have other names for scale and bias of a norm.
_OLD = (r'LayerNorm\.(gamma|beta)$', {'gamma': 'weight', 'beta': 'bias'})
# What may be new here, and what may be left out of a file: layers on top.
_NEW = re.compile(r'(pooler|head)/')
_IGNORED = re.compile(
  r'(.*\.)?((cls|lm_head|classifier|qa_outputs)\..*|position_ids)'
)
# What PyTorch puts into the names of a wrapped module's arrays.
_WRAPPERS = re.compile(
  r'\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
# The first array of an encoder; what precedes its name precedes all names.
_FIRST = 'embeddings.word_embeddings.weight'


class Pretrained:
  """An encoder's sizes, and its parameters when they are asked for."""

  def __init__(self, folder: str, dtype: str = 'float32'):
    """Reads the sizes and finds the arrays.

    Raises:
      ValueError: files are missing, damaged or of another kind of model.
      ImportError: safetensors is not installed.
    """
    root = pathlib.Path(folder).expanduser()
    self._path = root / _FILE
    paths = [self._path]
    if not self._path.is_file() and (root / _INDEX).is_file():
      self._path = root / _INDEX
      paths = _shards(self._path)
    for path in (root / 'config.json', *paths):
      if not path.is_file():
        raise ValueError(
          'model.pretrained must name a folder with config.json and'
          f' {_FILE} (or {_INDEX} and its files), but there is no'
          f' {str(path)!r}.'
        )
    self._files = {str(path): path for path in paths}
    with self._open() as files:
      stored = {
        name: path for path, file in files.items() for name in [*file.keys()]
      }
    self._names = _plain_names(stored, self._path)
    self.sizes = _sizes(root / 'config.json', dtype)
    self._check_sizes()
    self.name = f'{root.resolve().name} {_fingerprint(paths)}'

  def _check_sizes(self) -> None:
    """Raises a ValueError for sizes that the arrays do not have.

    This is before anything is made of these sizes, which may be huge.
    """
    sizes = self.sizes
    known = (re.match(r'encoder\.layer\.(\d+)\.', name) for name in self._names)
    layers = len({found[1] for found in known if found})
    if sizes.layers > layers:
      raise ValueError(
        f'{self._path} must hold {sizes.layers} layers as config.json says,'
        f' but encoder.layer.{layers}.* is missing: it is another model, or'
        ' damaged.'
      )
    rows = {
      'embeddings.word_embeddings.weight': sizes.vocab_size,
      'embeddings.position_embeddings.weight': sizes.positions,
      'embeddings.token_type_embeddings.weight': sizes.segments,
      'encoder.layer.0.intermediate.dense.weight': sizes.feed_forward,
    }
    with self._open() as files:
      for name, count in rows.items():
        if name in self._names:
          self._check_array(files, name, (count, sizes.width))

  def check(self, shapes: Any) -> None:
    """Raises a ValueError unless arrays and parameters correspond."""
    places = {}
    with self._open() as files:
      for path, x in _leaves(shapes):
        name = stored_name(path)
        places[name] = path
        if name in self._names:
          shape = x.shape[::-1] if path.endswith('/kernel') else x.shape
          self._check_array(files, name, tuple(shape))
        elif not _NEW.match(path):
          raise ValueError(
            f'{self._path} must hold an array {name} for {path}, which is'
            ' missing: it is another kind of model, or damaged.'
          )
    more = {x for x in self._names if not _IGNORED.fullmatch(x)} - {*places}
    if more:
      raise ValueError(
        f'{self._path} holds arrays that no parameter here is for:'
        f' {", ".join(sorted(more)[:3])} ({len(more)} in all).'
      )

  def into(self, params: Any) -> Any:
    """`params` with the arrays of the files, sharded as they were.

    What the files do not have, the head and maybe the pooler, stays.
    """
    with self._open() as files:

      def place(path, x):
        name = stored_name(_words(path))
        if name not in self._names:
          return x
        stored, file = self._names[name]
        array = np.asarray(files[file].get_tensor(stored), x.dtype)
        if not np.isfinite(array).all():
          raise ValueError(
            f'{stored} in {file} must be finite, got NaN or infinity: the'
            ' weights are damaged or diverged; use others.'
          )
        if _words(path).endswith('/kernel'):
          array = array.T
        return jax.make_array_from_callback(
          x.shape, x.sharding, lambda index: array[index]
        )

      return jax.tree_util.tree_map_with_path(place, params)

  def _check_array(
    self, files: dict[str, Any], name: str, shape: tuple[int, ...]
  ) -> None:
    """Raises a ValueError for an array of another shape, or of integers."""
    stored, file = self._names[name]
    found = files[file].get_slice(stored)
    if tuple(found.get_shape()) != shape:
      raise ValueError(
        f'{stored} in {file} must have the shape {shape} as config.json'
        f' says, got {tuple(found.get_shape())}.'
      )
    if found.get_dtype() not in _DTYPES:
      raise ValueError(
        f'{stored} in {file} must be of type {", ".join(_DTYPES)}, got'
        f' {found.get_dtype()}: these weights are quantized; use those that'
        ' are not.'
      )

  @contextlib.contextmanager
  def _open(self) -> Iterator[dict[str, Any]]:
    """All files, by their paths."""
    try:
      import safetensors
    except ImportError as error:
      raise ImportError(
        f'model.pretrained {str(self._path.parent)!r} needs the package'
        " safetensors: pip install 'greedylore-jax[train]'."
      ) from error
    with contextlib.ExitStack() as stack:
      files = {}
      for name, path in self._files.items():
        try:
          opened = safetensors.safe_open(path, framework='numpy')
        except Exception as error:  # The library raises its own and OSError.
          raise ValueError(
            f'{path} is not read as safetensors ({error}): it is damaged;'
            ' get it again.'
          ) from error
        files[name] = stack.enter_context(opened)
      yield files


def _json(path: pathlib.Path) -> dict[str, Any]:
  """The object of a JSON file."""
  try:
    found = json.loads(path.read_text('utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path} is not JSON ({error}): it is damaged; get it again.'
    ) from error
  if not isinstance(found, dict):
    raise ValueError(
      f'{path} must be a JSON object, got {repr(found)[:40]}: it is damaged;'
      ' get it again.'
    )
  return found


def _shards(index: pathlib.Path) -> list[pathlib.Path]:
  """The files of a model that is divided."""
  names = _json(index).get('weight_map')
  if (
    not isinstance(names, dict)
    or not names
    or not all(
      isinstance(x, str) and x == pathlib.Path(x).name for x in names.values()
    )
  ):
    raise ValueError(
      f'{index} must give weight_map, the file in its folder of every array,'
      f' got {repr(names)[:40]}: it is damaged; get it again.'
    )
  return [index.parent / name for name in sorted({*names.values()})]


def _fingerprint(paths: list[pathlib.Path]) -> str:
  """16 digits of the hash of a file, or of the hashes of several."""
  digests = []
  for path in paths:
    with path.open('rb') as file:
      digests.append(hashlib.file_digest(file, 'sha256').hexdigest())
  if len(digests) > 1:
    digests = [hashlib.sha256(''.join(digests).encode()).hexdigest()]
  return digests[0][:16]


def _sizes(path: pathlib.Path, dtype: str) -> bert.Sizes:
  """What config.json says.

  Raises:
    ValueError: it is of another kind of model, or a value is not as it must be.
  """
  config = _json(path)

  def value(key: str) -> Any:
    if key not in config:
      raise ValueError(
        f'{path} must be of a BERT or RoBERTa, but says nothing of {key!r}.'
      )
    return config[key]

  def checked(key: str, is_valid: Callable[[Any], bool], expected: str) -> Any:
    found = value(key)
    if not is_valid(found):
      raise ValueError(
        f'{path} must give {key} as {expected}, got {repr(found)[:40]}.'
      )
    return found

  def number(key: str, least: int = 1) -> int:
    is_valid = lambda x: type(x) is int and least <= x < 2**31
    return checked(key, is_valid, f'an integer from {least} to 2147483647')

  def fraction(key: str) -> float:
    is_valid = lambda x: type(x) in (int, float) and 0 < x < 1
    return checked(key, is_valid, 'a number between 0 and 1')

  kind = value('model_type')
  known = kind in ('bert', 'roberta')
  expected = {
    'model_type': kind if known else 'bert or roberta',
    'hidden_act': 'gelu',
    'position_embedding_type': 'absolute',
    'is_decoder': False,
  }
  for key, only in expected.items():
    if config.get(key, only) != only:
      raise ValueError(
        f'{path} must be of an encoder with {key} {only}, got'
        f' {repr(config[key])[:40]}.'
      )
  sizes = bert.Sizes(
    vocab_size=number('vocab_size'),
    width=number('hidden_size'),
    layers=number('num_hidden_layers'),
    heads=number('num_attention_heads'),
    feed_forward=number('intermediate_size'),
    positions=number('max_position_embeddings'),
    segments=number('type_vocab_size'),
    first_position=number('pad_token_id', 0) + 1 if kind == 'roberta' else 0,
    norm_eps=fraction('layer_norm_eps'),
    dtype=dtype,
  )
  if sizes.width % sizes.heads:
    raise ValueError(
      f'{path} must give a hidden_size that num_attention_heads divides, got'
      f' {sizes.width} and {sizes.heads}.'
    )
  if sizes.first_position >= sizes.positions:
    raise ValueError(
      f'{path} must give a pad_token_id below max_position_embeddings - 1,'
      f' got {sizes.first_position - 1} and {sizes.positions}.'
    )
  return sizes


def _plain_names(
  stored: dict[str, str], path: pathlib.Path
) -> dict[str, tuple[str, str]]:
  """The stored name and the file of every array, by its plain name.

  A plain name has none of the prefixes in which files of one model differ.

  Raises:
    ValueError: several arrays have the same plain name.
  """
  unwrapped = {name: _WRAPPERS.sub('', name) for name in stored}
  prefixes = {
    name.removesuffix(_FIRST)
    for name in unwrapped.values()
    if re.fullmatch(rf'(.*\.)?{re.escape(_FIRST)}', name)
  }
  if len(prefixes) > 1:
    raise ValueError(
      f'{path} must hold one encoder, got several:'
      f' {", ".join(sorted(prefixes))}.'
    )
  prefix = ''.join(prefixes)
  old, new = _OLD
  found: dict[str, tuple[str, str]] = {}
  for name, plain in unwrapped.items():
    plain = plain.removeprefix(prefix)
    plain = re.sub(old, lambda match: f'LayerNorm.{new[match[1]]}', plain)
    if plain in found:
      raise ValueError(
        f'{path} must hold {plain} once, got {found[plain][0]} and {name}.'
      )
    found[plain] = name, stored[name]
  return found


def stored_name(path: str) -> str:
  """What Hugging Face calls a parameter; '' for the head, which is ours."""
  for pattern, template in _NAMES:
    found = re.fullmatch(f'{pattern}(|kernel|scale|bias)', path)
    if found:
      return found.expand(template) + _LEAVES[found[found.re.groups]]
  return ''


def _words(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _leaves(tree: Any) -> list[tuple[str, Any]]:
  found, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(_words(path), x) for path, x in found]
