"""Labeled images: scikit-learn's digits, or a data set by name."""

from collections.abc import Callable
import dataclasses
import hashlib
import io
from typing import Any

import grain
import numpy as np

from train.config.schema import Data
from train.data import batches, datasets, pixels

Batch = dict[str, np.ndarray]
# Images that are hashed to tell data sets apart.
_SAMPLE = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
  """Images of one size with their labels, read when they are asked for."""

  count: int
  read: Callable[[np.ndarray], Batch]
  """From indices, [rows], to image, uint8 [rows, height, width, channels], and
  label, int32 [rows]."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
  """Training and held-out images."""

  description: dict[str, str | int]
  """Identifies the data, for JSON: corpus, sha256 (of a sample of the images),
  train_images, held_out_images, classes."""
  classes: int
  """Labels are below this."""
  shape: tuple[int, int, int]
  """Height, width and channels."""
  training: Part
  held_out: Part
  data: Data
  """Gives the seed of order and augmentation, and the latter."""
  options: grain.ReadOptions

  def train(
    self, batch_size: int, process_index: int = 0, process_count: int = 1
  ) -> grain.DatasetIterator:
    """Endless augmented batches, see `batches.endless`.

    Raises:
      ValueError: process_count does not divide batch_size.
    """

    def read(indices: np.ndarray, uniform: np.ndarray) -> Batch:
      batch = self.training.read(indices)
      crop, flip = self.data.crop, self.data.flip
      return batch | {'image': augmented(batch['image'], uniform, crop, flip)}

    return batches.endless(
      self.training.count,
      read,
      batch_size,
      seed=self.data.seed,
      process_index=process_index,
      process_count=process_count,
      columns=3,
      options=self.options,
    )

  def evaluation(self, images: int) -> Batch:
    """Held-out images as they are, always the same ones; 0 is all of them.

    Raises:
      ValueError: there are fewer.
    """
    chosen = batches.held_out(self.held_out.count, images, 'images')
    return self.held_out.read(chosen)


def augmented(
  image: np.ndarray, uniform: np.ndarray, crop: int, flip: bool
) -> np.ndarray:
  """Images shifted at random, padded with zeros, and mirrored.

  Args:
    image: [rows, height, width, channels].
    uniform: numbers in [0, 1), [rows, 3]: down, right, mirrored or not.
    crop: the largest shift in pixels; all up to it are equally likely.
    flip: mirror the images whose third number is below one half.
  """
  height, width = image.shape[1:3]
  edges = (0, 0), (crop, crop), (crop, crop), (0, 0)
  padded = np.pad(image, edges)
  down, right = (uniform[:, :2].T * (2 * crop + 1)).astype(np.int64)
  rows = down[:, None] + np.arange(height)
  columns = right[:, None] + np.arange(width)
  if flip:
    mirrored = uniform[:, 2:] < 0.5
    columns = np.where(mirrored, columns[:, ::-1], columns)
  each = np.arange(len(image))[:, None, None]
  return padded[each, rows[:, :, None], columns[:, None, :]]


def load(data: Data) -> ImageData:
  """The images that a configuration asks for.

  Raises:
    ValueError: there is no such data set, it holds no images of one size with
      labels, or nothing is left to train or evaluate on.
    ImportError: the library that reads it is not installed.
  """
  if data.source == 'digits':
    name, parts, classes = 'digits', _digits(data.eval_fraction), 10
    options = batches.IN_MEMORY
  else:
    name, parts, classes = _by_name(data)
    options = batches.FROM_DISK
  training, held_out = parts
  batches.check_parts(name, 'images', training.count, held_out.count)
  count = training.count
  sample = training.read(batches.spread(count, min(count, _SAMPLE)))
  digest = hashlib.sha256(sample['image'].tobytes())
  digest.update(sample['label'].tobytes())
  shape = sample['image'].shape[1:]
  return ImageData(
    description={
      'corpus': name,
      'sha256': digest.hexdigest()[:16],
      'train_images': training.count,
      'held_out_images': held_out.count,
      'classes': classes,
    },
    classes=classes,
    shape=(int(shape[0]), int(shape[1]), int(shape[2])),
    training=training,
    held_out=held_out,
    data=data,
    options=options,
  )


def _digits(eval_fraction: float) -> tuple[Part, Part]:
  """1,797 images of 8 x 8 pixels, 17 grays, which come with scikit-learn."""
  try:
    from sklearn import datasets as sklearn_datasets
  except ImportError as error:
    raise ImportError(
      "data.source 'digits' needs scikit-learn: pip install"
      " 'greedylore-jax[data]'."
    ) from error
  digits = sklearn_datasets.load_digits()
  image = np.round(digits.images[..., None] * 255 / 16).astype(np.uint8)
  label = digits.target.astype(np.int32)

  def part(chosen: np.ndarray) -> Part:
    read = lambda indices: {
      'image': image[chosen[indices]],
      'label': label[chosen[indices]],
    }
    return Part(len(chosen), read)

  training, held_out = batches.divided(len(label), eval_fraction)
  return part(training), part(held_out)


def _by_name(data: Data) -> tuple[str, tuple[Part, Part], int]:
  """A data set of tensorflow-datasets; without a held-out part, a share."""
  found = datasets.read(data.source, data.data_dir)
  classes = found.classes()
  if 'image' not in found.features or classes is None:
    raise ValueError(
      f'{found.name} must hold images with labels for an image model, got'
      f' {", ".join(found.features)}: choose another model.name.'
    )
  if found.held_out is not None:
    data.only_for('data without a held-out part of its own', 'eval_fraction')
    return found.name, (_part(found.train), _part(found.held_out)), classes
  training, held_out = batches.divided(len(found.train), data.eval_fraction)
  both = _part(found.train, training), _part(found.train, held_out)
  return found.name, both, classes


def _array(encoded: bytes, where: str) -> np.ndarray:
  """An image as uint8 [height, width, channels]."""
  array = np.asarray(pixels.decode(io.BytesIO(encoded), where)[0])
  return array if array.ndim == 3 else array[:, :, None]


def _part(split: datasets.Split, chosen: np.ndarray | None = None) -> Part:
  """Some examples of a split, by default all."""
  index = np.arange(len(split)) if chosen is None else chosen

  def read(indices: Any) -> Batch:
    chosen = index[indices]
    examples = split.take(chosen)
    images = [
      _array(example['image'], f'image {i} of {split.name}')
      for i, example in zip(chosen, examples, strict=True)
    ]
    if len({image.shape for image in images}) > 1:
      raise ValueError(
        'All images must be of one size, got'
        f' {sorted({image.shape for image in images})}: prepare them with'
        ' `python -m train.prepare NAME --images FOLDER --size PIXELS`.'
      )
    label = np.array([example['label'] for example in examples], np.int32)
    return {'image': np.stack(images), 'label': label}

  return Part(len(index), read)
