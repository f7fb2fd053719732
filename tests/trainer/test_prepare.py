"""Does the loader read what train.prepare writes?"""

import dataclasses
import gzip
import json
import re

import numpy as np
import pytest

from train import prepare
from train.config.schema import Data
from train.data import datasets, images, sources, text, tokenizers

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
  return Data(source=name, data_dir=str(tmp_path / 'sets'), **changes)


def test_a_folder_with_images_of_each_class(tmp_path, capsys):
  pictures(tmp_path / 'pets', 6)
  assert run(tmp_path, 'pets', '--images', str(tmp_path / 'pets')) == 0
  said, error = capsys.readouterr()
  assert not error, 'without a terminal there is no progress bar'
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


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'dev', 'Test'])
def test_a_part_to_evaluate_on_may_have_any_usual_name(tmp_path, name):
  pictures(tmp_path / 'pets' / 'train', 3)
  pictures(tmp_path / 'pets' / name, 2)
  assert run(tmp_path, 'pets', '--images', str(tmp_path / 'pets')) == 0
  data = images.load(section(tmp_path, 'pets'))
  assert (data.training.count, data.held_out.count) == (6, 4)


def test_what_of_a_folder_is_left_out_is_reported(tmp_path, capsys):
  folder = tmp_path / 'pets'
  pictures(folder / 'train', 2)
  image = pillow.fromarray(np.zeros((6, 5, 3), np.uint8))
  image.save(folder / 'train' / 'of_no_class.png')
  (folder / 'extra' / 'cat').mkdir(parents=True)
  image.save(folder / 'extra' / 'cat' / '0.png')
  image.save(folder / 'train' / 'cat' / '0.tiff')
  (folder / 'README').write_text('words')
  assert run(tmp_path, 'pets', '--images', str(folder)) == 0
  said = capsys.readouterr().out
  assert 'because they are not images: 1 (.tiff), 1 (no ending).\n' in said
  assert "folder of a class: 2, such as 'extra/cat/0.png'.\n" in said
  assert '4 in train' in said


def test_classes_that_cannot_be_learnt_are_reported(tmp_path, capsys):
  pictures(tmp_path / 'pets' / 'val', 1)
  (tmp_path / 'pets' / 'val' / 'dog').rename(tmp_path / 'pets' / 'val' / 'dgo')
  options = 'pets', '--images', str(tmp_path / 'pets')
  assert run(tmp_path, *options) == 2
  assert 'a folder train alongside val, got none' in capsys.readouterr().err
  pictures(tmp_path / 'pets' / 'train', 1)
  assert run(tmp_path, *options) == 2
  assert "a class to train on (cat, dog); the nearest is 'dog'" in (
    capsys.readouterr().err
  )
  pictures(tmp_path / 'pets' / 'test' / 'x', 1)  # No part: one folder deeper.
  pictures(tmp_path / 'pets' / 'valid', 1)
  assert run(tmp_path, *options) == 2
  assert 'one folder for validation, got val and valid' in (
    capsys.readouterr().err
  )


def test_images_of_every_kind_are_8_bits_and_of_one_kind(tmp_path, capsys):
  """16 bits are scaled, gray becomes RGB among RGB, and a camera turns."""
  folder = tmp_path / 'kinds'
  deep = np.array([[0, 257 * 7], [257 * 200, 65535]], np.uint16)
  colors = np.zeros((2, 2, 3), np.uint8) + np.uint8([1, 2, 3])
  for name in ('a', 'b'):
    (folder / name).mkdir(parents=True)
  pillow.fromarray(deep).save(folder / 'a' / 'deep.png')
  pillow.fromarray(deep >> 8 << 8).save(folder / 'b' / 'deep.png')
  assert run(tmp_path, 'gray', '--images', str(folder)) == 0
  assert 'Images with 16 bits scaled to 8: 2.' in capsys.readouterr().out
  found = everything(section(tmp_path, 'gray'))
  assert [[0, 7], [200, 255]] in found[..., 0].tolist()
  clear = pillow.fromarray(np.dstack([colors, np.uint8([[0, 9], [9, 9]])]))
  clear.save(folder / 'b' / 'clear.png')
  assert run(tmp_path, 'both', '--images', str(folder)) == 0
  assert 'Images with transparency dropped: 1.' in capsys.readouterr().out
  found = everything(section(tmp_path, 'both'))
  assert found.shape == (3, 2, 2, 3)
  assert colors.tolist() in found.tolist()
  # Exif says that the right side of the picture was up.
  wide = pillow.fromarray(np.uint8([[0, 255]] * 2).repeat(8, 1).repeat(4, 0))
  for name in ('a', 'b'):
    exif = pillow.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / 'x.jpg', exif=exif)
    (tmp_path / 'turned' / name).mkdir(parents=True)
    (tmp_path / 'x.jpg').rename(tmp_path / 'turned' / name / 'x.jpg')
  assert run(tmp_path, 'turned', '--images', str(tmp_path / 'turned')) == 0
  found = everything(section(tmp_path, 'turned'))
  assert found.shape == (2, 16, 8, 1) and found[0, 0].max() < 128


def everything(section):
  """All images of a data set."""
  data = images.load(dataclasses.replace(section, eval_fraction=0.5))
  parts = (data.training, data.held_out)
  read = [part.read(np.arange(part.count))['image'] for part in parts]
  return np.concatenate(read)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_a_damaged_image_is_reported_by_path(tmp_path, capsys, kind):
  pictures(tmp_path / 'pets', 2)
  path = tmp_path / 'pets' / 'cat' / f'x.{kind.lower()}'
  noise = RNG.integers(0, 255, (60, 50, 3), dtype=np.uint8)
  pillow.fromarray(noise).save(path, kind)
  path.write_bytes(path.read_bytes()[:-2000])
  assert run(tmp_path, 'pets', '--images', str(tmp_path / 'pets')) == 2
  error = capsys.readouterr().err
  assert f"'{path}' cannot be decoded" in error and error.count('\n') == 1
  path.write_bytes(b'no image')
  assert run(tmp_path, 'pets', '--images', str(tmp_path / 'pets')) == 2
  assert f"'{path}' cannot be decoded" in capsys.readouterr().err
  assert not (tmp_path / 'sets' / 'pets').exists()


def test_the_files_of_mnist(tmp_path):
  both = {}
  for name, count in (('train', 5), ('t10k', 3)):
    image = RNG.integers(0, 255, (count, 4, 4), dtype=np.uint8)
    label = np.arange(count, dtype=np.uint8)
    both[name] = image
    for kind, array in (('images-idx3', image), ('labels-idx1', label)):
      head = (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>u4').tobytes()
      )
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
  write = tmp_path, 'prose', '--texts', str(tmp_path / '*.txt')
  assert run(*write) == 0
  assert run(*write) == 2, 'nothing is mixed with what was there'
  settings = section(tmp_path, 'prose', sequence_length=16, eval_fraction=0.2)
  data = text.load(settings)
  assert data.description['corpus'] == 'prose/1.0.0'
  held_out = data.held_out[0].windows
  every = np.concatenate([data.training_windows, held_out])
  assert b'text 3 is not' in every.tobytes()
  assert len(held_out), 'a share of the documents'


def test_a_vocabulary_is_learnt_from_texts(tmp_path, capsys):
  words = 'a word and an other word, naïve. ' * 20
  (tmp_path / '0.txt').write_text(words, encoding='utf-8')
  texts = ['--texts', str(tmp_path / '*.txt')]
  assert run(tmp_path, 'prose', *texts, '--vocabulary', '270') == 0
  learnt = tokenizers.load(str(tmp_path / 'sets' / 'prose' / 'tokenizer.json'))
  assert (learnt.vocab_size, learnt.end_of_text) == (270, 0)
  ids = learnt.encode(words.encode())
  assert len(ids) < 0.7 * len(words), 'frequent pairs are one token'
  assert run(tmp_path, 'prose2', *texts, '--vocabulary', '256') == 2
  assert 'more than 256 tokens' in capsys.readouterr().err
  assert not (tmp_path / 'sets' / 'prose2' / '1.0.0').exists()


@pytest.mark.parametrize('how', ['share', 'files', 'share of one text'])
def test_texts_with_a_part_to_evaluate_on_can_be_streamed(
  tmp_path, capsys, how
):
  """By following the messages from text files on."""
  count = 1 if how == 'share of one text' else 6
  for i in range(count):
    words = ''.join(f'text {i} line {j} is short. ' for j in range(20))
    (tmp_path / f'{i}.txt').write_text(words)
  (tmp_path / 'other.text').write_text('to evaluate on. ' * 9)
  pattern = str(tmp_path / '*.txt')
  with pytest.raises(ValueError, match='--texts PATTERN --eval_f') as caught:
    section(tmp_path, 'files', files=(pattern,), stream=True)
  advice = re.search(r'`python -m train\.prepare (.*)`', str(caught.value))[1]
  assert run(tmp_path, 'alone', '--texts', pattern) == 0
  alone = section(tmp_path, 'alone', stream=True, sequence_length=7)
  with pytest.raises(ValueError, match=r'eval_fraction 0\.05 or --held_out F'):
    text.load(alone)
  options = advice.replace('NAME', 'mine').replace('PATTERN', pattern).split()
  if how == 'files':
    options[-2:] = '--held_out', str(tmp_path / '*.text')
  else:
    options[-1] = '0.3'
  assert run(tmp_path, *options) == 0
  assert '1 in validation' in capsys.readouterr().out
  data = text.load(dataclasses.replace(alone, source='mine'))
  held_out = data.held_out[0].windows.tobytes()
  assert (b'evaluate' in held_out) == (how == 'files')
  assert held_out not in next(data.train(1)).tobytes()


def test_text_to_evaluate_on_that_is_trained_on_is_refused(tmp_path, capsys):
  for i in range(6):
    (tmp_path / f'{i}.txt').write_text(f'text {i}. ' * 9)
  options = 'x', '--texts', str(tmp_path / '*.txt'), '--held_out'
  assert run(tmp_path, *options, str(tmp_path / '3.txt')) == 2
  assert 'are not trained on, but 100% of' in capsys.readouterr().err
  (tmp_path / 'y.text').write_text('something else. ' * 9)
  both = str(tmp_path / '3.txt'), str(tmp_path / 'y.text')
  assert run(tmp_path, *options, *both) == 0
  assert 'also training texts: 1.\n' in capsys.readouterr().out
  data = text.load(section(tmp_path, 'x', sequence_length=4))
  assert any('1 of 2 held-out texts of x/1.0.0' in x for x in data.remarks)


def test_json_lines_are_texts_by_their_field(tmp_path, capsys):
  path = tmp_path / 'a.jsonl'
  rows = ({'body': f'text {i} is not long'} for i in range(9))
  path.write_text('\n'.join(map(json.dumps, rows)))
  assert run(tmp_path, 'x', '--texts', str(path)) == 2
  assert "line 1 must have the field 'text', got body" in (
    capsys.readouterr().err
  )
  options = 'x', '--texts', str(path), '--text_field', 'body'
  assert run(tmp_path, *options) == 0
  assert '9 in train' in capsys.readouterr().out


TEXTS = [b'a long one, much longer than a row', b'short', b'and more']


@pytest.fixture(scope='module')
def documents(tmp_path_factory):
  """Texts with a part to evaluate on, as a configuration of a data set."""
  root = tmp_path_factory.mktemp('documents')
  features = {'text': datasets.library().features.Text()}
  part = lambda texts: lambda: ({'text': x} for x in texts)
  whole = {'train': part(TEXTS), 'validation': part([b'held out ' * 9])}
  prepare.write('en', root / 'sets' / 'c4', sources.Source(features, whole))
  alone = {'train': part(TEXTS)}
  prepare.write('alone', root / 'sets', sources.Source(features, alone))
  (root / 'wiki.test.txt').write_text('other words. ' * 9)
  return root


def test_documents_are_read_when_their_turn_comes(documents):
  settings = section(documents, 'c4', stream=True, sequence_length=11)
  data = text.load(settings)
  assert data.description['corpus'] == 'c4/en/1.0.0'
  assert data.description['train_documents'] == 3
  order = [x['text'] for x in datasets.read('c4/en', settings.data_dir).train]
  rows = data.training_windows[np.arange(3)]
  for i, row in enumerate(rows):
    whole = b'\0'.join(order[i:] + order[:i]) + b'\0'
    assert row.tobytes() == whole[:12]
  # The same for any number of processes, and after going on.
  batches, halves = data.train(2), [data.train(2, i, 2) for i in range(2)]
  for _ in range(3):
    both = np.concatenate([next(half) for half in halves])
    np.testing.assert_array_equal(both, next(batches))
  again = data.train(2)
  again.set_state(halves[0].get_state())
  np.testing.assert_array_equal(next(again), next(batches))


def test_several_texts_are_held_out(documents):
  path = str(documents / 'wiki.test.txt')
  settings = section(
    documents,
    'alone',
    sequence_length=4,
    eval_fraction=0.3,
    held_out=(path, 'c4'),
  )
  data = text.load(settings)
  assert [x.name for x in data.held_out] == ['', 'wiki_test', 'c4']
  assert b'other words' in data.held_out[1].windows.tobytes()
  assert b'held out' in data.held_out[2].windows.tobytes()
  assert {*data.description['held_out']} == {'wiki_test', 'c4'}
  with pytest.raises(ValueError, match=r'names differ, got c4, c4'):
    text.load(dataclasses.replace(settings, held_out=('c4', 'c4')))
  with pytest.raises(ValueError, match=r"'no\.txt' is no file, .*no data set"):
    text.load(dataclasses.replace(settings, held_out=('no.txt',)))
  with pytest.raises(ValueError, match=r'wiki_test text has .* needs 99'):
    data.held_out[1].take(99)


def test_what_cannot_be_streamed_is_reported(documents):
  with pytest.raises(ValueError, match=r"by name .*, got source='files'"):
    section(documents, 'files', files=('x',), stream=True)
  long = section(documents, 'c4', stream=True, sequence_length=60)
  with pytest.raises(ValueError, match=r'must have 61 tokens, got 50'):
    next(text.load(long).train(1))
  part = documents / 'sets' / 'c4' / 'de' / '1.0.0'
  part.mkdir(parents=True)
  (part / 'dataset_info.json').touch()
  with pytest.raises(ValueError, match=r'one of c4/de, c4/en, got .c4.'):
    text.load(long)


def test_what_is_wrong_is_one_line(tmp_path, capsys):
  file = tmp_path / 'train-images-idx3-ubyte.gz'
  file.write_bytes(gzip.compress(b'cut off')[:-9])
  assert run(tmp_path, 'x', '--idx', str(tmp_path)) == 2
  assert f"'{file}' is damaged" in capsys.readouterr().err
  file.write_bytes(gzip.compress(b'no'))
  for options, message in (
    (('x', '--images', str(tmp_path)), 'a folder of images per class'),
    (('x', '--idx', str(tmp_path)), 'an array of bytes in IDX format'),
    (('x', '--texts', str(tmp_path / 'no*')), 'matches none'),
    (('../x', '--texts', 'y'), "got '../x'"),
    (('x', '--vocabulary', '0'), '--vocabulary is only for --texts: leave'),
    (('x', '--idx', 'y', '--held_out', 'z'), 'for --texts or --sentences:'),
    (('x', '--texts', 'y', '--columns', 'a', 'b'), 'is only for --sentences'),
    (('x', '--sentences', 'y', '--columns', 'a'), 'SENTENCE LABEL, got a'),
    (('x', '--texts', 'y', '--eval_fraction', '1'), 'between 0 and 1, got 1'),
    (('x', '--images', 'y', '--size', '0'), 'at least 1, got 0'),
    (
      ('minst',),
      "must be a data set of tensorflow-datasets; the nearest is 'mnist'",
    ),
    (('digits', '--texts', 'y'), "'digits' is built in, images for a resnet"),
    (('x', '--texts'), '--texts takes one value or more, got none'),
    (('x', '--texts', 'y', '--idx', 'z'), '--texts and --idx are two'),
    (('x', 'y'), "expected one NAME, got 'x' and 'y'"),
    (('x', '--text-feild', 'y'), "the nearest is 'text_field'"),
  ):
    assert run(tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
  pictures(tmp_path / 'pets', 1)
  run(tmp_path, 'pets', '--images', str(tmp_path / 'pets'))
  with pytest.raises(ValueError, match=r'must hold texts .* model\.name'):
    text.load(section(tmp_path, 'pets'))
  for name, meant in (
    ('pest', 'pets'),
    ('python_stdlib', 'python-stdlib'),
    ('cifar_10', 'cifar10'),
  ):
    with pytest.raises(ValueError, match=f"the nearest is '{meant}'"):
      text.load(section(tmp_path, name))


@pytest.mark.parametrize('damage', ['dataset_info.json', 'array_record'])
def test_a_damaged_data_set_is_reported_by_name(tmp_path, damage):
  (tmp_path / 'a.txt').write_text('words ' * 99)
  assert run(tmp_path, 'prose', '--texts', str(tmp_path / 'a.txt')) == 0
  folder = tmp_path / 'sets' / 'prose' / '1.0.0'
  path = next(x for x in folder.iterdir() if damage in x.name)
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r'prose.*; prepare it again'):
    text.load(section(tmp_path, 'prose'))


def test_the_newest_version_is_taken_and_another_format_refused(tmp_path):
  for version in ('1.9.0', '1.10.0'):
    folder = tmp_path / 'name' / version
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{"fileFormat": "tfrecord"}')
  with pytest.raises(ValueError, match=r"name/1\.10\.0 .* got 'tfrecord'"):
    datasets.read('name', str(tmp_path))
  with pytest.raises(ValueError, match=r'name/1\.9\.0 '):
    datasets.read('name/1.9.0', str(tmp_path))
