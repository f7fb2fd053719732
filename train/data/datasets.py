"""Data sets of tensorflow-datasets on disk, read without TensorFlow."""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

from train.config import regular_files, section

# What the sentences of a data set are called; the first that it has all of.
SENTENCES = (
  ('sentence1', 'sentence2'),
  ('question1', 'question2'),
  ('premise', 'hypothesis'),
  ('question', 'sentence'),
  ('sentence',),
  ('text',),
)
# The held-out parts of official data sets, in order of preference.
_HELD_OUT = ('validation', 'validation_matched', 'test')
_TRAIN = 'train'
FORMAT = 'array_record'
_TOGETHER = 1000
_NAME = re.compile(r'(?!/|.*\.\.)[^*?\[\]\\\0]{0,200}')
_BUILT_IN = {
  'python-stdlib': 'texts for a llama',
  'files': 'texts for a llama',
  'digits': 'images for a resnet',
}

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """The examples of one part: dicts of what `DataSet.features` says.

  Texts are bytes, images encoded bytes (see `pixels.decode`), labels numbers.
  """

  name: str
  """For messages: that of the data set and of the part."""
  source: Any
  """As tensorflow-datasets opened it."""

  def __len__(self) -> int:
    return len(self.source)

  def take(self, indices: Iterable[int]) -> list[Example]:
    """Those examples, read together, which is several times faster.

    Raises:
      ValueError: their files are damaged.
    """
    try:
      return self.source.__getitems__([int(i) for i in indices])
    except Exception as error:  # The libraries raise many kinds.
      raise _damaged(self.name, error) from error

  def __iter__(self) -> Iterator[Example]:
    for start in range(0, len(self), _TOGETHER):
      yield from self.take(range(start, min(start + _TOGETHER, len(self))))


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
  """A data set with a training part and, mostly, a held-out one."""

  name: str
  """Name, configuration and version: 'glue/mrpc/2.0.0'."""
  train: Split
  held_out: Split | None
  features: dict[str, Any]
  """What an example holds, as tensorflow-datasets describes it."""

  def classes(self) -> int | None:
    """How many values a label has; None if it is a number or there is none."""
    label = self.features.get('label')
    return getattr(label, 'num_classes', None)


def read(name: str, data_dir: str) -> DataSet:
  """Opens a data set; nothing is downloaded.

  A name is that of folders below `data_dir`: 'cifar10', 'glue/mrpc'. It may
  include a version; otherwise the newest one is opened.

  Raises:
    ValueError: there is none, or it is not stored as array_record.
    ImportError: tensorflow-datasets is not installed.
  """
  folder = _folder(name, pathlib.Path(data_dir).expanduser())
  regular_files.check_below(folder, links=True)
  try:
    info = json.loads((folder / 'dataset_info.json').read_text('utf-8'))
    file_format = info.get('fileFormat')
  except (OSError, ValueError, RecursionError, AttributeError) as error:
    raise _damaged(str(folder / 'dataset_info.json'), error) from error
  with contextlib.suppress(FileNotFoundError):
    _check_names(folder / 'features.json')
  if file_format != FORMAT:
    raise ValueError(
      f'{folder} must hold a data set in {FORMAT} format, got'
      f' {file_format!r}: {_command(name, data_dir)}'
    )
  tfds = library()
  try:
    builder = tfds.builder_from_directory(folder)
    features = dict(builder.info.features)
    raw = {
      key: tfds.decode.SkipDecoding()
      for key, feature in features.items()
      if isinstance(feature, tfds.features.Image)
    }
    parts = {
      part: Split(
        f'{name} ({part})', builder.as_data_source(part, decoders=raw)
      )
      for part in builder.info.splits
      if part in (_TRAIN, *_HELD_OUT)
    }
  except Exception as error:  # The libraries raise many kinds.
    raise _damaged(str(folder), error) from error
  if _TRAIN not in parts:
    raise ValueError(
      f'{folder} must have a part {_TRAIN!r}, got'
      f' {", ".join(builder.info.splits)}.'
    )
  root = pathlib.Path(data_dir).expanduser()
  return DataSet(
    folder.relative_to(root).as_posix(),
    parts[_TRAIN],
    next((parts[x] for x in _HELD_OUT if x in parts), None),
    features,
  )


def _check_names(path: pathlib.Path) -> None:
  """Raises for a key of JSON that is no name of a feature.

  The library looks for files of that name, as a pattern.
  """
  try:
    left = [json.loads(path.read_text('utf-8'))]
    while left:
      tree = left.pop()
      if isinstance(tree, dict):
        if wrong := next((x for x in tree if not _NAME.fullmatch(x)), None):
          raise ValueError(f'{wrong[:40]!r} is no name of a feature')
        left += tree.values()
      elif isinstance(tree, list):
        left += tree
  except (ValueError, RecursionError) as error:
    raise _damaged(str(path), error) from error


def _damaged(what: str, error: Exception) -> ValueError:
  reason = (str(error).splitlines() or [''])[0]
  return ValueError(
    f'{what} cannot be read ({type(error).__name__}: {reason}): the data set'
    ' is damaged or incomplete; prepare it again.'
  )


def check_name(name: str) -> None:
  """Raises a ValueError for what cannot be the name of a data set."""
  if name in _BUILT_IN:
    raise ValueError(
      f'{name!r} is built in, {_BUILT_IN[name]}, and not the name of a data'
      ' set: take another name, or the model.name that it is for.'
    )
  if not re.fullmatch(r'\w[\w.-]*(/\w[\w.-]*)*', name):
    raise ValueError(
      'the name of a data set must be one such as cifar10 or glue/mrpc, got'
      f' {name!r}.'
    )


def library() -> Any:
  """The module tensorflow_datasets.

  Raises:
    ImportError: it is not installed.
  """
  # It logs in which order it looked for what it does not need.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(
      f'Data sets by name need tensorflow-datasets ({error}): pip install'
      " 'greedylore-jax[data]'. It works without TensorFlow."
    ) from error
  return tensorflow_datasets


def official_names() -> list[str]:
  """Of the data sets that tensorflow-datasets can prepare, if it is there."""
  try:
    return library().list_builders(with_community_datasets=False)
  except ImportError:
    return []


def _folder(name: str, root: pathlib.Path) -> pathlib.Path:
  """The folder of the newest version: the one with dataset_info.json."""
  check_name(name)
  start = root / name
  if (start / 'dataset_info.json').is_file():
    return start
  versions = [x.parent for x in start.glob('*/dataset_info.json')]
  if not versions:  # Its configurations, of which one needs no name.
    versions = [x.parent for x in start.glob('*/*/dataset_info.json')]
    if len({x.parent for x in versions}) > 1:
      names = sorted({f'{name}/{x.parent.name}' for x in versions})
      raise ValueError(
        f'data.source must be one of {", ".join(names)}, got {name!r}.'
      )
  if not versions:
    there = [
      x.parent.parent.relative_to(root).as_posix()
      for depth in ('*/*', '*/*/*')
      for x in root.glob(f'{depth}/dataset_info.json')
    ]
    official = official_names()
    hint = (
      ''
      if name.split('/')[0] in official
      else section.nearest(name, [*_BUILT_IN, *there, *official])
    )
    raise ValueError(
      f'There is no data set {name!r} below data.data_dir={str(root)!r}'
      f'{hint}: {_command(name, str(root))}'
    )
  numbers = lambda folder: [int(n) for n in re.findall(r'\d+', folder.name)]
  return max(versions, key=numbers)


def _command(name: str, data_dir: str) -> str:
  """How to get it."""
  return (
    f'prepare it with `python -m train.prepare {name} --data_dir {data_dir}`,'
    ' or name another one.'
  )
