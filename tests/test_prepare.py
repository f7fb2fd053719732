"""Does the loader read what train.prepare writes?"""

import gzip

import numpy as np
import pytest

from train import config
from train import prepare
from train.data import datasets
from train.data import images
from train.data import text

pytest.importorskip('tensorflow_datasets')
pillow = pytest.importorskip('PIL.Image')
# What other packages do on their own.
pytestmark = pytest.mark.filterwarnings('ignore')
RNG = np.random.default_rng(0)


def pictures(folder, count, size=(6, 5)):
  """Random images of two classes; each one's first pixel tells its class."""
  for label, name in enumerate(('cat', 'dog')):
    (folder / name).mkdir(parents=True)
    for i in range(count):
      array = RNG.integers(10, 255, (*size, 3), dtype=np.uint8)
      array[0, 0] = label
      pillow.fromarray(array).save(folder / name / f'{i}.png')


def run(tmp_path, name, *options):
  return prepare.main([name, '--data_dir', str(tmp_path / 'sets'), *options])


def section(tmp_path, name, **changes):
  return config.Data(
      source=name, data_dir=str(tmp_path / 'sets'), **changes
  )  # fmt: skip


def test_a_folder_with_images_of_each_class(tmp_path, capsys):
  pictures(tmp_path / 'pets', 6)
  assert run(tmp_path, 'pets', '--images', str(tmp_path / 'pets')) == 0
  said = capsys.readouterr().out
  assert '12 in train. Use it with --data.source pets' in said
  data = images.load(section(tmp_path, 'pets', eval_fraction=0.25))
  assert (data.shape, data.classes) == ((6, 5, 3), 2)
  assert (data.training.count, data.held_out.count) == (9, 3)
  batch = next(data.train(9))
  np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['label'])


def test_a_folder_with_a_part_that_is_held_out(tmp_path):
  pictures(tmp_path / 'pets' / 'train', 3)
  pictures(tmp_path / 'pets' / 'test', 2, size=(9, 12))
  folder = str(tmp_path / 'pets')
  assert run(tmp_path, 'pets', '--images', folder) == 2, 'two sizes'
  assert run(tmp_path, 'pets', '--images', folder, '--size', '4') == 0
  data = images.load(section(tmp_path, 'pets'))
  assert (data.training.count, data.held_out.count) == (6, 4)
  assert data.shape == (4, 4, 3)


def test_the_files_of_mnist(tmp_path):
  both = {}
  for name, count in (('train', 5), ('t10k', 3)):
    image = RNG.integers(0, 255, (count, 4, 4), dtype=np.uint8)
    label = np.arange(count, dtype=np.uint8)
    both[name] = image
    for kind, array in (('images-idx3', image), ('labels-idx1', label)):
      head = bytes([0, 0, 8, array.ndim]) + np.array(
          array.shape, '>u4'
      ).tobytes()
      path = tmp_path / f'{name}-{kind}-ubyte.gz'
      path.write_bytes(gzip.compress(head + array.tobytes()))
  assert run(tmp_path, 'small_mnist', '--idx', str(tmp_path)) == 0
  data = images.load(section(tmp_path, 'small_mnist'))
  found = data.evaluation(0)
  order = found['label']
  np.testing.assert_array_equal(found['image'][..., 0], both['t10k'][order])
  assert (data.training.count, data.classes) == (5, 5)


def test_texts(tmp_path):
  for i in range(6):
    words = f'text {i} is not long. ' * 20
    (tmp_path / f'{i}.txt').write_text(words, encoding='utf-8')
  assert run(tmp_path, 'prose', '--texts', str(tmp_path / '*.txt')) == 0
  settings = section(
      tmp_path, 'prose', sequence_length=16, eval_fraction=0.2
  )  # fmt: skip
  data = text.load(settings)
  assert data.description['corpus'] == 'prose/1.0.0'
  every = np.concatenate([data.training_windows, data.held_out_windows])
  assert b'text 3 is not' in every.tobytes()
  assert len(data.held_out_windows), 'a share of the documents'


def test_what_is_wrong_is_one_line(tmp_path, capsys):
  (tmp_path / 'train-images-idx3-ubyte.gz').write_bytes(gzip.compress(b'no'))
  for options, message in (
      (('x', '--images', str(tmp_path)), 'a folder of images per class'),
      (('x', '--idx', str(tmp_path)), 'an array of bytes in IDX format'),
      (('x', '--texts', str(tmp_path / 'no*')), 'matches none'),
      (('../x', '--texts', 'y'), "got '../x'"),
  ):
    assert run(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
  pictures(tmp_path / 'pets', 1)
  run(tmp_path, 'pets', '--images', str(tmp_path / 'pets'))
  with pytest.raises(ValueError, match=r'must hold texts .* model\.name'):
    text.load(section(tmp_path, 'pets'))


def test_the_newest_version_is_taken_and_another_format_refused(tmp_path):
  for version in ('1.9.0', '1.10.0'):
    folder = tmp_path / 'name' / version
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{"fileFormat": "tfrecord"}')
  with pytest.raises(ValueError, match=r"name/1\.10\.0 .* got 'tfrecord'"):
    datasets.read('name', str(tmp_path))
  with pytest.raises(ValueError, match=r'name/1\.9\.0 '):
    datasets.read('name/1.9.0', str(tmp_path))
