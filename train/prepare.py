"""Makes data sets that `data.source` names: array_record below data.data_dir.

python -m train.prepare NAME [--data_dir DIR]       an official one, downloaded
python -m train.prepare NAME --texts PATTERN ...    text files, tokenizer
python -m train.prepare NAME --images FOLDER        FOLDER/CLASS/IMAGE
python -m train.prepare NAME --idx FOLDER           the files of (Fashion-)MNIST
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import glob
import gzip
import io
import pathlib
import sys
from typing import Any

import numpy as np

from train import command
from train.data import corpus
from train.data import datasets
from train.data import tokenizers

_VERSION = '1.0.0'
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


def main(argv: list[str]) -> int:
  """Writes a data set; returns the exit code."""
  parser = argparse.ArgumentParser(
      'python -m train.prepare', description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  parser.add_argument('name', help='what data.source will call it')
  parser.add_argument('--data_dir', default='~/tensorflow_datasets')
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
      '--texts', nargs='+', metavar='PATTERN',
      help='UTF-8 text files, a document each (.xz is read, too)',
  )  # fmt: skip
  parser.add_argument(
      '--vocabulary', type=int, metavar='TOKENS',
      help='learn a tokenizer from the texts, too: NAME/tokenizer.json',
  )  # fmt: skip
  what.add_argument(
      '--images', metavar='FOLDER',
      help='a folder per class, or train/ and test/ (or validation/) with them',
  )  # fmt: skip
  what.add_argument(
      '--idx', metavar='FOLDER',
      help='train-images-idx3-ubyte.gz and its three companions',
  )  # fmt: skip
  parser.add_argument(
      '--size', type=int, metavar='PIXELS',
      help='scale and crop images to squares of this side',
  )  # fmt: skip
  options = parser.parse_args(argv)
  root = pathlib.Path(options.data_dir).expanduser()
  try:
    datasets.check_name(options.name)
    if options.vocabulary and not options.texts:
      raise ValueError('--vocabulary is learnt from texts: give --texts, too.')
    if options.texts:
      source = texts(options.texts)
      done = write(options.name, root, source)
      if options.vocabulary:
        path = root / options.name / 'tokenizer.json'
        done += _learn_vocabulary(source, options.vocabulary, path)
    elif options.images:
      done = write(options.name, root, images(options.images, options.size))
    elif options.idx:
      done = write(options.name, root, idx(options.idx))
    else:
      done = download(options.name, root)
  except (ValueError, OSError, ImportError) as error:
    return command.fail(error)
  print(done)
  return 0


def texts(patterns: list[str]) -> Source:
  """A document per file; a training run holds some of them out itself."""
  documents = corpus.read('files', patterns).documents
  part = lambda: ({'text': document.text} for document in documents)
  features = datasets.library().features
  return Source({'text': features.Text()}, {'train': part})


def _learn_vocabulary(source: Source, size: int, path: pathlib.Path) -> str:
  """Writes a tokenizer and says where it lies."""
  documents = (example['text'].decode() for example in source.splits['train']())
  count = tokenizers.train(documents, size, str(path))
  return f'\n{count:,} tokens. Use them with --data.tokenizer {path}.'


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


def write(name: str, root: pathlib.Path, source: Source) -> str:
  """Writes a data set and says where it lies."""
  tfds = datasets.library()
  base: Any = tfds.core.GeneratorBasedBuilder

  class Prepared(base, skip_registration=True):  # type: ignore[call-arg]
    """Examples that are at hand."""

    VERSION = tfds.core.Version(_VERSION)

    def _info(self):
      features = tfds.features.FeaturesDict(source.features)
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      del dl_manager
      return {
          part: enumerate(part_of()) for part, part_of in source.splits.items()
      }

    def _generate_examples(self):
      raise NotImplementedError

  Prepared.name = name
  builder = Prepared(data_dir=root, file_format=datasets.FORMAT)
  return _prepare(tfds, builder, name, root)


def download(name: str, root: pathlib.Path) -> str:
  """Downloads an official data set and writes it as array_record.

  Raises:
    ValueError: there is none of that name, or preparing it fails.
  """
  tfds = datasets.library()
  try:
    builder = tfds.builder(name, data_dir=root, file_format=datasets.FORMAT)
    return _prepare(tfds, builder, name, root)
  except Exception as error:  # The library and what it calls raise anything.
    reason = str(error).strip().split('\n')[0]
    raise ValueError(
        f'tensorflow-datasets cannot prepare {name!r} here'
        f' ({type(error).__name__}: {reason}). It needs a network; images need'
        ' TensorFlow, and c4 apache-beam, to be prepared (not to be read).'
        f' Where it can, this is the same: `tfds build {name} --file_format'
        f' {datasets.FORMAT} --data_dir {root}`.'
    ) from error


def _prepare(tfds: Any, builder: Any, name: str, root: pathlib.Path) -> str:
  builder.download_and_prepare(
      file_format=datasets.FORMAT,
      download_config=tfds.download.DownloadConfig(
          # What lies there is complete: it was moved there in the end.
          download_mode=tfds.GenerateMode.REUSE_DATASET_IF_EXISTS,
      ),
  )
  counts = ', '.join(
      f'{split.num_examples:,} in {part}'
      for part, split in builder.info.splits.items()
  )
  return (
      f'{builder.data_path}: {counts}. Use it with --data.source {name}'
      f' --data.data_dir {root}.'
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
  content = gzip.decompress(path.read_bytes())
  rank = content[3] if content[:3] == b'\0\0\x08' else 0
  head = 4 + 4 * rank
  shape = np.frombuffer(content[4:head], '>u4')
  values = np.frombuffer(content[head:], np.uint8)
  if not rank or values.size != np.prod(shape):
    raise ValueError(f'{path} must hold an array of bytes in IDX format.')
  return values.reshape(shape)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
