"""Pre-trained encoders: config.json and model.safetensors of Hugging Face.

Arrays are read with the safetensors package; no PyTorch, no pickle, and
nothing is downloaded.
"""

import hashlib
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np

from train.models import bert

_FILE = 'model.safetensors'
# From the paths of parameters to names there; what follows is in _LEAVES.
_NAMES = (
    (r'embedding/token', r'embeddings.word_embeddings.weight'),
    (r'embedding/position', r'embeddings.position_embeddings.weight'),
    (r'embedding/segment', r'embeddings.token_type_embeddings.weight'),
    (r'embedding/norm/', r'embeddings.LayerNorm.'),
    (r'layers/(\d+)/attention/(query|key|value)/',
     r'encoder.layer.\1.attention.self.\2.'),
    (r'layers/(\d+)/attention/output/',
     r'encoder.layer.\1.attention.output.dense.'),
    (r'layers/(\d+)/attention_norm/',
     r'encoder.layer.\1.attention.output.LayerNorm.'),
    (r'layers/(\d+)/feed_forward/up/', r'encoder.layer.\1.intermediate.dense.'),
    (r'layers/(\d+)/feed_forward/down/', r'encoder.layer.\1.output.dense.'),
    (r'layers/(\d+)/feed_forward_norm/', r'encoder.layer.\1.output.LayerNorm.'),
    (r'pooler/', r'pooler.dense.'),
)  # fmt: skip
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', '': ''}
# The oldest files have other names for scale and bias of a norm.
_OLD = (r'LayerNorm\.(gamma|beta)$', {'gamma': 'weight', 'beta': 'bias'})
# What may be new here, and what may be left out of a file: layers on top.
_NEW = re.compile(r'(pooler|head)/')
_IGNORED = re.compile(r'(cls|lm_head|classifier|qa_outputs)\..*|.*position_ids')


class Pretrained:
  """An encoder's sizes, and its parameters when they are asked for."""

  def __init__(self, folder: str, dtype: str = 'float32'):
    """Reads the sizes and finds the arrays.

    Args:
      folder: with config.json and model.safetensors.
      dtype: of the activations.

    Raises:
      ValueError: they are not there, damaged or of another kind of model.
      ImportError: safetensors is not installed.
    """
    root = pathlib.Path(folder).expanduser()
    self._path = root / _FILE
    for path in (root / 'config.json', self._path):
      if not path.is_file():
        raise ValueError(
            'model.pretrained must name a folder with config.json and'
            f' {_FILE}, but there is no {str(path)!r}.'
        )
    self.sizes = _sizes(root / 'config.json', dtype)
    with self._open() as file:
      names = file.keys()
    self._names = {_plain(name): name for name in names}
    with self._path.open('rb') as stream:
      digest = hashlib.file_digest(stream, 'sha256').hexdigest()
    self.name = f'{root.resolve().name} {digest[:16]}'

  def check(self, shapes: Any) -> None:
    """Raises a ValueError unless all arrays are there and have a place.

    Args:
      shapes: of the parameters that they are meant for.
    """
    with self._open() as file:
      places = {
          _name(path): (path, tuple(x.shape)) for path, x in _leaves(shapes)
      }
      for name, (path, shape) in places.items():
        if name not in self._names:
          if _NEW.match(path):
            continue
          raise ValueError(
              f'{self._path} must hold an array {name} for {path}, which is'
              ' missing: it is another kind of model, or damaged.'
          )
        found = tuple(file.get_slice(self._names[name]).get_shape())
        expected = shape[::-1] if path.endswith('/kernel') else shape
        if found != expected:
          raise ValueError(
              f'{name} in {self._path} must have the shape {expected} as'
              f' config.json says, got {found}.'
          )
    more = {x for x in self._names if not _IGNORED.fullmatch(x)} - {*places}
    if more:
      raise ValueError(
          f'{self._path} holds arrays that no parameter here is for:'
          f' {", ".join(sorted(more)[:3])} ({len(more)} in all).'
      )

  def into(self, params: Any) -> Any:
    """`params` with the arrays of the file, each where the other one lies.

    What the file does not have, the head and maybe the pooler, stays.
    """
    with self._open() as file:

      def place(path, x):
        name = _name(_words(path))
        if name not in self._names:
          return x
        array = np.asarray(file.get_tensor(self._names[name]), x.dtype)
        if _words(path).endswith('/kernel'):
          array = array.T
        return jax.make_array_from_callback(
            x.shape, x.sharding, lambda index: array[index]
        )

      return jax.tree_util.tree_map_with_path(place, params)

  def _open(self) -> Any:
    try:
      import safetensors
    except ImportError as error:
      raise ImportError(
          f'model.pretrained {str(self._path.parent)!r} needs the package'
          " safetensors: pip install 'greedylore-jax[train]'."
      ) from error
    try:
      return safetensors.safe_open(self._path, framework='numpy')
    except Exception as error:  # The library raises its own and OSError.
      raise ValueError(
          f'{self._path} is not read as safetensors ({error}): check the file.'
      ) from error


def _sizes(path: pathlib.Path, dtype: str) -> bert.Sizes:
  """What config.json says."""
  try:
    told = json.loads(path.read_text('utf-8'))
    kind = told['model_type']
    known = kind in ('bert', 'roberta')
    expected = {
        'model_type': kind if known else 'bert or roberta',
        'hidden_act': 'gelu',
        'position_embedding_type': 'absolute',
        'is_decoder': False,
    }
    for key, value in expected.items():
      if told.get(key, value) != value:
        raise ValueError(
            f'{path} must be of an encoder with {key} {value}, got'
            f' {told[key]!r}.'
        )
    return bert.Sizes(
        vocab_size=told['vocab_size'],
        width=told['hidden_size'],
        layers=told['num_hidden_layers'],
        heads=told['num_attention_heads'],
        feed_forward=told['intermediate_size'],
        positions=told['max_position_embeddings'],
        segments=told['type_vocab_size'],
        first_position=told['pad_token_id'] + 1 if kind == 'roberta' else 0,
        norm_eps=told['layer_norm_eps'],
        dtype=dtype,
    )
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is not JSON ({error}).') from error
  except KeyError as error:
    raise ValueError(
        f'{path} must be of a BERT or RoBERTa, but says nothing of {error}.'
    ) from error


def _plain(name: str) -> str:
  """Without what differs between files of the same model."""
  name = re.sub(r'^(bert|roberta)\.', '', name)
  old, new = _OLD
  return re.sub(old, lambda found: f'LayerNorm.{new[found[1]]}', name)


def _name(path: str) -> str:
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
