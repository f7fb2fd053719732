"""What data sets are written from: text files, folders of images, IDX files."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import glob
import gzip
import io
import pathlib
from typing import Any
import zlib

import numpy as np

from train.data import corpus
from train.data import datasets

_IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')
_HELD_OUT = ('validation', 'test')
# Where the four files of an MNIST begin to hold data.
_IDX = {'train': 'train', 'test': 't10k'}


@dataclasses.dataclass(frozen=True)
class Source:
  """What is to be written."""

  features: dict[str, Any]
  """Of tensorflow-datasets."""
  splits: dict[str, Callable[[], Iterator[dict[str, Any]]]]
  """Examples of each part."""


def texts(patterns: list[str]) -> Source:
  """A document per file; a training run holds some of them out itself."""
  documents = corpus.read('files', patterns).documents
  part = lambda: ({'text': document.text} for document in documents)
  features = datasets.library().features
  return Source({'text': features.Text()}, {'train': part})


def images(folder: str, size: int | None) -> Source:
  """Images in folders that are called like their classes.

  Raises:
    ValueError: there are none, or they differ in size and none is given.
  """
  root = pathlib.Path(folder)
  held_out = [x for x in _HELD_OUT if (root / x).is_dir()]
  parts = ['train', *held_out] if (root / 'train').is_dir() else ['']
  paths = {part: _images_below(root / part) for part in parts}
  names = sorted({path.parent.name for part in paths.values() for path in part})
  if not names:
    raise ValueError(
        f'--images must name a folder with a folder of images per class (their'
        f' names end in {", ".join(_IMAGES)}), got {folder!r}.'
    )
  shapes = {_png(path, size)[1] for part in paths.values() for path in part}
  if len(shapes) > 1:
    raise ValueError(
        f'All images must be of one size, got {len(shapes)} of them in'
        f' {folder!r}: give --size PIXELS.'
    )

  def examples(part):
    for path in paths[part]:
      yield _example(_png(path, size)[0], names.index(path.parent.name))

  return Source(
      _image_features(shapes.pop(), names),
      {x or 'train': functools.partial(examples, x) for x in parts},
  )


def idx(folder: str) -> Source:
  """The files of MNIST and Fashion-MNIST, as their authors publish them.

  Raises:
    ValueError: a file is not what its name says.
    OSError: it is not there.
  """
  arrays = {
      part: tuple(
          _read_idx(pathlib.Path(folder) / f'{name}-{kind}-ubyte.gz')
          for kind in ('images-idx3', 'labels-idx1')
      )
      for part, name in _IDX.items()
  }

  def examples(part):
    for image, label in zip(*arrays[part], strict=True):
      yield _example(_encoded(image), int(label))

  shape = *arrays['train'][0].shape[1:], 1
  count = int(max(labels.max() for _, labels in arrays.values())) + 1
  return Source(
      _image_features(shape, [*map(str, range(count))]),
      {part: functools.partial(examples, part) for part in arrays},
  )


def _images_below(folder: pathlib.Path) -> list[pathlib.Path]:
  found = map(pathlib.Path, glob.glob(f'{glob.escape(str(folder))}/*/*'))
  return sorted(x for x in found if x.suffix.lower() in _IMAGES)


def _png(path: pathlib.Path, size: int | None) -> tuple[bytes, Any]:
  """An image file as a PNG in gray or RGB, and its shape."""
  from PIL import Image
  from PIL import ImageOps

  with Image.open(path) as image:
    plain = image.convert('L' if image.mode in ('1', 'L') else 'RGB')
  if size is not None:
    plain = ImageOps.fit(plain, (size, size))
  array = np.asarray(plain)
  return _encoded(array), (*array.shape, 1)[:3]


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
  except (EOFError, zlib.error) as error:
    raise ValueError(f'{path} is damaged: {error}.') from None
  rank = content[3] if content[:3] == b'\0\0\x08' else 0
  head = 4 + 4 * rank
  shape = np.frombuffer(content[4:head], '>u4')
  values = np.frombuffer(content[head:], np.uint8)
  if not rank or values.size != np.prod(shape):
    raise ValueError(f'{path} must hold an array of bytes in IDX format.')
  return values.reshape(shape)
