"""Sources that data sets are written from: texts, images and IDX files."""

import collections
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import gzip
import io
import math
import pathlib
from typing import Any
import zlib

import numpy as np

from train.config import section
from train.data import corpus as corpus_lib
from train.data import datasets, pixels

_IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')
# The part of a data set that a folder of this name holds.
_PARTS = {
  'train': 'train',
  'training': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'dev': 'validation',
  'test': 'test',
  'testing': 'test',
}
# Where the four files of an MNIST begin to hold data.
_IDX = {'train': 'train', 'test': 't10k'}

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
  """The examples to write."""

  features: dict[str, Any]
  """Of tensorflow-datasets."""
  splits: dict[str, Callable[[], Iterator[Example]]]
  """Examples of each part."""
  remarks: tuple[str, ...] = ()
  """Lines for people: what was found, left out and changed."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How to choose the part to evaluate on."""

  held_out: tuple[str, ...] = ()
  """Paths or patterns of its files."""
  fraction: float = 0.0
  """Without such files: its share of all examples; 0 makes no such part."""


def texts(patterns: list[str], field: str, evaluation: Evaluation) -> Source:
  """Texts of the files that match (see `corpus.read`).

  Raises:
    ValueError: a file is not a text, a part would be empty, or the parts
      overlap.
  """
  whole = corpus_lib.read('files', patterns, field)
  left_out = whole.left_out
  training: tuple[corpus_lib.Document, ...] = whole.documents
  held_out: tuple[corpus_lib.Document, ...] = ()
  remarks: list[str] = []
  if evaluation.held_out:
    other = corpus_lib.read('files', evaluation.held_out, field)
    held_out, left_out = other.documents, left_out + other.left_out
    count, share = corpus_lib.repeated(held_out, training)
    remarks += also_training(count, share, 'texts')
  elif evaluation.fraction:
    training, held_out = corpus_lib.split(whole, evaluation.fraction)
    for part in (training, held_out):
      if not any(document.text for document in part):
        raise ValueError(
          '--eval_fraction must leave text in both parts, got'
          f' {evaluation.fraction} of {whole.num_bytes} bytes: use another.'
        )
  splits = {'train': _documents(training)}
  if held_out:
    splits['validation'] = _documents(held_out)
  remarks = [f'left out: {what}' for what in left_out] + remarks
  features = {'text': datasets.library().features.Text()}
  return Source(features, splits, tuple(remarks))


def _documents(
  documents: tuple[corpus_lib.Document, ...],
) -> Callable[[], Iterator[Example]]:
  return lambda: ({'text': document.text} for document in documents)


def also_training(count: int, share: float, kind: str) -> list[str]:
  """A remark if some of the held-out examples are training examples.

  Raises:
    ValueError: at least half of them are.
  """
  if share >= 0.5:
    raise ValueError(
      f'--held_out must name {kind} that are not trained on, but {share:.0%}'
      ' of them are also in the training files: remove them from those, or'
      ' use --eval_fraction.'
    )
  if not count:
    return []
  return [f'held-out {kind} that are also training {kind}: {count:,}']


def images(folder: str, size: int | None) -> Source:
  """Images in folders that are called like their classes.

  Args:
    folder: it holds a folder per class, or a folder `train` and others such as
      `val` or `test`, each of which holds a folder per class.
    size: side in pixels of the squares to which images are scaled and cropped.

  Raises:
    ValueError: there are none, one is damaged, or they differ in size.
  """
  root = pathlib.Path(folder)
  parts = {part: _images_below(x) for part, x in _part_folders(root).items()}
  names = sorted({path.parent.name for path in parts['train']})
  if not names:
    raise ValueError(
      '--images must name a folder with a folder of images per class (their'
      f' names end in {", ".join(_IMAGES)}), got {folder!r}.'
    )
  for path in (path for part in parts.values() for path in part):
    if path.parent.name not in names:
      raise ValueError(
        f'{str(path.parent)!r} must be called like a class to train on'
        f' ({", ".join(names[:10])}){section.nearest(path.parent.name, names)}:'
        ' rename it, or leave it out.'
      )
  kinds: set[tuple[tuple[int, int], str]] = set()
  changes: collections.Counter[str] = collections.Counter()
  for path in (path for part in parts.values() for path in part):
    image, changed = _picture(path, size)
    kinds.add((image.size, image.mode))
    changes.update(changed)
  sizes = {kind[0] for kind in kinds}
  if len(sizes) > 1:
    raise ValueError(
      f'All images must be of one size, got {len(sizes)} of them in'
      f' {folder!r}: give --size PIXELS.'
    )
  (width, height), mode = min(sizes), max(kind[1] for kind in kinds)

  def examples(part):
    for path in parts[part]:
      image = _picture(path, size)[0].convert(mode)
      yield _example(_encoded(np.asarray(image)), names.index(path.parent.name))

  remarks = [
    f'images with {change}: {count:,}' for change, count in changes.items()
  ]
  return Source(
    _image_features((height, width, 1 if mode == 'L' else 3), names),
    {part: functools.partial(examples, part) for part in parts},
    (*_not_taken(root, parts.values()), *remarks),
  )


def idx(folder: str) -> Source:
  """The files of MNIST and Fashion-MNIST, as their authors publish them.

  Raises:
    ValueError: a file is damaged or not what its name says.
    OSError: it is not there.
  """
  arrays = {
    part: tuple(
      _read_idx(pathlib.Path(folder) / f'{name}-{kind}-ubyte.gz')
      for kind in ('images-idx3', 'labels-idx1')
    )
    for part, name in _IDX.items()
  }

  for part, (image, label) in arrays.items():
    if image.ndim != 3 or label.shape != image.shape[:1]:
      raise ValueError(
        f'The images of {part} in {folder!r} must have a label each, got'
        f' arrays of {image.shape} and {label.shape}.'
      )

  def examples(part):
    for image, label in zip(*arrays[part], strict=True):
      yield _example(_encoded(image), int(label))

  shape = *arrays['train'][0].shape[1:], 1
  count = int(max(labels.max() for _, labels in arrays.values())) + 1
  return Source(
    _image_features(shape, [*map(str, range(count))]),
    {part: functools.partial(examples, part) for part in arrays},
  )


def _part_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """The folder of each part; without such folders all is the training part."""
  found: dict[str, pathlib.Path] = {}
  for folder in sorted(root.glob('*/')):
    part = _PARTS.get(folder.name.lower())
    if part is None or not _images_below(folder):
      continue
    if part in found:
      raise ValueError(
        f'{str(root)!r} must have one folder for {part}, got'
        f' {found[part].name} and {folder.name}: rename or join them.'
      )
    found[part] = folder
  if found and 'train' not in found:
    names = ', '.join(folder.name for folder in found.values())
    raise ValueError(
      f'{str(root)!r} must have a folder train alongside {names}, got none:'
      ' add it, or name one of these.'
    )
  return found or {'train': root}


def _images_below(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(x for x in folder.glob('*/*') if _is_image(x))


def _is_image(path: pathlib.Path) -> bool:
  return path.suffix.lower() in _IMAGES and path.is_file()


def _not_taken(
  root: pathlib.Path, parts: Iterable[list[pathlib.Path]]
) -> list[str]:
  """Remarks on the files in a folder of images that are not used."""
  taken = {path for part in parts for path in part}
  others = [x for x in root.rglob('*') if x.is_file() and x not in taken]
  images = sorted(x for x in others if _is_image(x))
  endings = collections.Counter(
    x.suffix.lower() or 'no ending' for x in others if not _is_image(x)
  )
  remarks = []
  if endings:
    counted = (f'{count:,} ({x})' for x, count in sorted(endings.items()))
    remarks.append(
      f'files left out because they are not images: {", ".join(counted)}'
    )
  if images:
    remarks.append(
      'images left out because they are not in the folder of a class:'
      f' {len(images):,}, such as {str(images[0].relative_to(root))!r}'
    )
  return remarks


def _picture(path: pathlib.Path, size: int | None) -> tuple[Any, list[str]]:
  """An image file as a PIL image in gray or RGB, and what was changed."""
  from PIL import ImageOps

  image, changes = pixels.decode(path, repr(str(path)))
  if size is not None:
    image = ImageOps.fit(image, (size, size))
  return image, changes


def _encoded(array: np.ndarray) -> bytes:
  """uint8 [height, width] or [height, width, 3] as a PNG."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(array).save(file, 'PNG')
  return file.getvalue()


def _example(png: bytes, label: int) -> dict[str, Any]:
  return {'image': io.BytesIO(png), 'label': label}


def _image_features(shape: tuple[int, ...], names: list[str]) -> dict[str, Any]:
  features = datasets.library().features
  image = features.Image(shape=shape, encoding_format='png')
  return {'image': image, 'label': features.ClassLabel(names=names)}


def _read_idx(path: pathlib.Path) -> np.ndarray:
  """An array of bytes in the format of MNIST: sizes, then values."""
  try:
    content = gzip.decompress(path.read_bytes())
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(f'{str(path)!r} is damaged: {error}.') from None
  rank = content[3] if content[:3] == b'\0\0\x08' else 0
  head = 4 + 4 * rank
  if rank and len(content) >= head:
    shape = [*map(int, np.frombuffer(content[4:head], '>u4'))]
    if math.prod(shape) == len(content) - head:
      return np.frombuffer(content[head:], np.uint8).reshape(shape)
  raise ValueError(f'{str(path)!r} must hold an array of bytes in IDX format.')
