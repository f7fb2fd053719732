"""Are images the same for every process and resume, and augmented rightly?"""

import dataclasses
import io

import numpy as np
import pytest

from train import prepare
from train.config.schema import Data
from train.data import batches, datasets, images, sources

pytest.importorskip('sklearn')
DIGITS = Data(source='digits', crop=1, flip=True, eval_fraction=0.2)


@pytest.fixture(scope='module')
def digits():
  return images.load(DIGITS)


def take(iterator, count):
  found = [next(iterator) for _ in range(count)]
  return {key: np.stack([x[key] for x in found]) for key in found[0]}


def assert_equal(a, b):
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def test_digits_are_there_without_a_network(digits):
  assert digits.shape == (8, 8, 1)
  assert digits.description['train_images'] == 1438
  assert digits.description['held_out_images'] == 359
  held_out = digits.evaluation(0)
  assert held_out['image'].shape == (359, 8, 8, 1)
  assert held_out['image'].dtype == np.uint8
  assert held_out['image'].max() == 255
  assert {*held_out['label']} == set(range(10))
  seen = digits.training.read(np.arange(1438))['image']
  both = np.concatenate([seen, held_out['image']]).reshape(1797, -1)
  assert len(np.unique(both, axis=0)) == 1797, 'no digit is on both sides'


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_hold_their_parts_of_one_batch(digits, processes):
  whole = take(digits.train(8), 3)
  parts = [take(digits.train(8, i, processes), 3) for i in range(processes)]
  joined = {
    key: np.concatenate([part[key] for part in parts], axis=1) for key in whole
  }
  assert_equal(joined, whole)


def test_an_iterator_resumes_at_its_position(digits):
  first = digits.train(8)
  take(first, 5)
  state = first.get_state()
  rest = take(first, 3)
  again = digits.train(8, 0, 1)
  again.set_state(state)
  assert_equal(take(again, 3), rest)


def test_order_and_augmentation_follow_the_seed(digits):
  same = images.load(DIGITS)
  data = dataclasses.replace(DIGITS, seed=1)
  other = dataclasses.replace(digits, data=data)
  assert_equal(take(same.train(8), 2), take(digits.train(8), 2))
  a, b = take(digits.train(8), 2), take(other.train(8), 2)
  assert (a['label'] != b['label']).any()
  assert (a['image'] != b['image']).any()


def test_a_shift_and_a_mirror_are_what_they_say():
  image = np.arange(1, 13, dtype=np.uint8).reshape(1, 3, 4, 1)
  at = lambda *numbers: images.augmented(
    image, np.array([numbers]), crop=1, flip=True
  )[0, :, :, 0]
  middle, first, last = 0.5, 0.0, 0.999
  plain = image[0, :, :, 0]
  np.testing.assert_array_equal(at(middle, middle, 0.9), plain)
  np.testing.assert_array_equal(at(middle, middle, 0.1), plain[:, ::-1])
  # The window moves up and to the left: the image down and to the right.
  np.testing.assert_array_equal(
    at(first, first, 0.9), [[0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7]]
  )
  np.testing.assert_array_equal(
    at(last, middle, 0.9), [[5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 0]]
  )


def test_without_augmentation_images_are_as_they_were(digits):
  data = dataclasses.replace(DIGITS, crop=0, flip=False)
  plain = dataclasses.replace(digits, data=data)
  batch = next(plain.train(4))
  order = next(batches.endless(1438, lambda x, _: x, 4, seed=0))
  assert_equal(batch, plain.training.read(order))


def test_what_is_missing_is_reported(digits, tmp_path):
  with pytest.raises(ValueError, match=r'asks for 360 .* there are 359; 0'):
    digits.evaluation(360)
  with pytest.raises(ValueError, match=r'train and to evaluate on, got 1797 '):
    images.load(dataclasses.replace(DIGITS, eval_fraction=0.0))
  missing = Data(source='cifar10', data_dir=str(tmp_path))
  with pytest.raises(
    ValueError,
    match=(
      r"no data set 'cifar10' below .*: prepare it with `python -m"
      r' train.prepare cifar10 --data_dir '
    ),
  ):
    images.load(missing)
  with pytest.raises(ValueError, match=r"such as cifar10 .*, got '../x'"):
    images.load(Data(source='../x'))


@pytest.mark.filterwarnings('ignore')
def test_a_damaged_image_of_a_data_set_is_reported(tmp_path):
  pytest.importorskip('tensorflow_datasets')
  pillow = pytest.importorskip('PIL.Image')
  file = io.BytesIO()
  pillow.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, 'JPEG')
  whole, features = file.getvalue(), datasets.library().features
  part = lambda: (
    {'image': io.BytesIO(whole[:-200]), 'label': i % 2} for i in range(4)
  )
  prepare.write(
    'pets',
    tmp_path,
    sources.Source(
      {
        'image': features.Image(shape=(64, 64, 3), encoding_format='jpeg'),
        'label': features.ClassLabel(num_classes=2),
      },
      {'train': part},
    ),
  )
  section = Data(source='pets', data_dir=str(tmp_path), eval_fraction=0.5)
  with pytest.raises(
    ValueError,
    match=(r'image \d of pets \(train\) cannot be decoded as an image'),
  ):
    images.load(section)
