"""Is the text the same for every process, resume and split, and read right?"""

import dataclasses
import functools
import gzip
import json
import sys

import numpy as np
import pytest

import texts
from train.data import corpus, tokenizers
from train.data import text as text_lib


@pytest.fixture
def folder(tmp_path):
  return texts.write(tmp_path)


@pytest.fixture
def section(folder):
  return functools.partial(texts.section, folder)


def take(iterator, count):
  return np.stack([next(iterator) for _ in range(count)])


# The order of the training windows.


def test_batches_are_reproducible_and_depend_on_the_seed(section):
  first = take(text_lib.load(section()).train(4), 5)
  again = take(text_lib.load(section()).train(4), 5)
  other = take(text_lib.load(section(seed=1)).train(4), 5)
  assert first.dtype == np.int32
  assert first.shape == (5, 4, 33)
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_an_epoch_holds_every_window_once_and_the_next_is_reshuffled(section):
  text = text_lib.load(section())
  count = len(text.training_windows)
  windows = take(text.train(1), 2 * count)[:, 0]
  expected = sorted(text.training_windows.tolist())
  for epoch in (windows[:count], windows[count:]):
    assert sorted(epoch.tolist()) == expected
  assert (windows[:count] != windows[count:]).any()


def test_the_second_epoch_of_a_seed_is_not_the_first_of_the_next(section):
  text = text_lib.load(section())
  count = len(text.training_windows)
  second = take(text.train(1), 2 * count)[count:]
  first = take(text_lib.load(section(seed=1)).train(1), count)
  assert (first != second).any()


@pytest.mark.parametrize('where', ['within an epoch', 'across epochs'])
def test_resuming_equals_going_on(section, where):
  text = text_lib.load(section())
  steps_per_epoch = len(text.training_windows) / 8
  stop = 3 if where == 'within an epoch' else int(steps_per_epoch)
  assert not steps_per_epoch.is_integer()  # A batch spans the border.
  whole = text.train(8)
  take(whole, stop)
  state = json.loads(json.dumps(whole.get_state()))
  resumed = text_lib.load(section()).train(8)
  next(resumed)  # What was read before set_state does not matter.
  resumed.set_state(state)
  np.testing.assert_array_equal(take(resumed, 4), take(whole, 4))


@pytest.mark.parametrize('process_count', [2, 4])
def test_processes_share_the_batch_of_one(section, process_count):
  text = text_lib.load(section())
  iterators = [text.train(8, p, process_count) for p in range(process_count)]
  parts = [take(iterator, 20) for iterator in iterators]
  whole = text.train(8)
  np.testing.assert_array_equal(np.concatenate(parts, 1), take(whole, 20))
  for iterator in iterators:
    assert iterator.get_state() == whole.get_state()


def test_a_state_of_one_process_continues_on_four(section):
  text = text_lib.load(section())
  whole = text.train(8)
  take(whole, 3)
  iterators = [text.train(8, p, 4) for p in range(4)]
  for iterator in iterators:
    iterator.set_state(whole.get_state())
  parts = [next(iterator) for iterator in iterators]
  np.testing.assert_array_equal(np.concatenate(parts), next(whole))


# The held-out part.


def test_evaluation_is_spread_evenly_and_independent_of_the_seed(section):
  text = text_lib.load(section())
  other = text_lib.load(section(seed=7))
  total = len(text.held_out[0].windows)
  windows = text.held_out[0].take(3)
  assert windows.dtype == np.int32
  np.testing.assert_array_equal(windows, other.held_out[0].take(3))
  np.testing.assert_array_equal(
    windows, text.held_out[0].windows[[0, total // 3, 2 * total // 3]]
  )
  assert text.description == other.description


def test_whole_files_are_held_out_to_about_the_fraction(folder):
  whole = texts.read(folder / '**' / '*.txt')
  train, held_out = corpus.split(whole, 0.1)
  assert sorted(train + held_out, key=lambda d: d.name) == [*whole.documents]
  size = sum(len(document.text) for document in held_out)
  assert 0.05 * whole.num_bytes <= size <= 0.1 * whole.num_bytes
  assert not {d.text for d in train} & {d.text for d in held_out}


def test_the_split_does_not_follow_places(folder, tmp_path):
  moved = tmp_path / 'elsewhere'
  moved.mkdir()
  for path in folder.glob('*.txt'):
    (moved / path.name).write_bytes(path.read_bytes())
  here, there = texts.read(folder / '*.txt'), texts.read(moved / '*.txt')
  assert here.sha256 == there.sha256
  assert corpus.split(here, 0.1) == corpus.split(there, 0.1)


def test_the_split_is_the_same_in_every_release():
  whole = corpus.Corpus(
    'letters',
    tuple(corpus.Document(name, name.encode()) for name in 'abcdefghij'),
  )
  _, held_out = corpus.split(whole, 0.3)
  # Runs before and after a change of this do not compare.
  assert ''.join(document.name for document in held_out) == 'dfj'


def test_the_end_of_a_single_file_is_held_out(tmp_path):
  path = tmp_path / 'one.txt'
  path.write_text('é' * 101)
  (train,), (held_out,) = corpus.split(texts.read(path), 0.26)
  assert train.text + held_out.text == path.read_bytes()
  assert held_out.text.decode() == 'é' * 27  # 53 bytes would cut a letter.


def test_a_file_name_may_look_like_a_pattern(tmp_path):
  (tmp_path / 'a[1].txt').write_text('text')
  assert texts.read(tmp_path / 'a[1].txt').documents[0].text == b'text'


def test_a_tilde_is_the_home_folder(folder, section, monkeypatch):
  monkeypatch.setenv('HOME', str(folder))
  (folder / 'other.text').write_text('text' * 10)
  (folder / 'a.json').write_text('damaged')
  assert corpus.read('files', ['~/*.text']).documents[0].text == b'text' * 10
  found = text_lib.load(section(held_out=('~/other.text',)))
  assert [x.name for x in found.held_out] == ['', 'other']
  with pytest.raises(ValueError, match='not read as one'):  # But it is found.
    tokenizers.load('~/a.json')


def test_the_standard_library_comes_without_tests_and_packages():
  found = corpus.read('python-stdlib')
  names = {document.name for document in found.documents}
  folders = {part for name in names for part in name.split('/')[:-1]}
  assert {'functools.py', 'json/decoder.py'} <= names
  assert not folders & {'test', 'tests', 'idle_test', 'site-packages'}
  assert not any(name.startswith('_sysconfigdata') for name in names)
  assert sys.version.split()[0] in found.name


# What is held out must not be trained on.


def test_text_to_score_on_that_is_trained_on_is_refused(section, folder):
  # Also if its end is held out, and if the line is as long as the text.
  (folder / 'one.text').write_text('0123456789 ' * 900 + 'the end ' * 99)
  text = section(files=(str(folder / 'one.text'),))
  assert [x.name for x in text_lib.load(text).held_out] == ['']
  again = dataclasses.replace(text, held_out=(str(folder / 'one.text'),))
  with pytest.raises(ValueError, match=r'not trained on, but 100% of one'):
    text_lib.load(again)
  other = dataclasses.replace(text, held_out=(str(folder / '00.txt'),))
  assert text_lib.load(other).remarks == ()
  some = dataclasses.replace(text, held_out=(str(folder / '*.t*t'),))
  (warning,) = text_lib.load(some).remarks
  assert warning.startswith('Warning: 1 of 40 held-out texts of test_text')
  # The name of any pattern tells it from the corpus's own part.
  named = dataclasses.replace(text, held_out=(str(folder / '*.txt'),))
  own, found = text_lib.load(named).held_out
  assert (own.name, found.name) == ('', folder.name)


def test_what_is_left_out_is_reported(section, folder):
  (folder / 'empty.txt').touch()
  (folder / 'copy.txt').write_bytes((folder / '07.txt').read_bytes())
  assert text_lib.load(section()).remarks == (
    'Left out of files: 1 empty text, 1 repeated text.',
  )


def test_compression_is_not_in_the_name_of_a_text_to_score_on(
  section, folder, tmp_path
):
  (tmp_path / 'wiki.text').write_text('other words. ' * 9)
  packed = gzip.compress((tmp_path / 'wiki.text').read_bytes())
  (tmp_path / 'wiki.text.GZ').write_bytes(packed)
  one, other = (
    text_lib.load(section(held_out=(str(tmp_path / name),))).description
    for name in ('wiki.text', 'wiki.text.GZ')
  )
  assert one == other and [*one['held_out']] == ['wiki']


# What goes wrong is said plainly.


def test_a_pattern_without_a_file(tmp_path):
  with pytest.raises(ValueError, match=r'nothing\*.*matches none'):
    texts.read(tmp_path / 'nothing*')
  with pytest.raises(ValueError, match=r'a folder needs a pattern'):
    texts.read(tmp_path)


def test_a_corpus_without_text(tmp_path, monkeypatch):
  (tmp_path / 'empty.txt').touch()
  with pytest.raises(ValueError, match=r'must hold text, got 1 empty text:'):
    texts.read(tmp_path / 'empty.txt')
  monkeypatch.setattr('sysconfig.get_path', lambda name: str(tmp_path))
  with pytest.raises(ValueError, match=r'must hold text, got no files'):
    corpus.read('python-stdlib')


def test_too_few_windows(section):
  text = text_lib.load(section())
  for part, windows, ask in (
    ('training', text.training_windows, text.train),
    ('held-out', text.held_out[0].windows, text.held_out[0].take),
  ):
    count = len(windows)
    assert ask(count) is not None
    with pytest.raises(
      ValueError,
      match=(
        rf'{part} text has {count} windows .* = 33 tokens, .* needs {count + 1}'
      ),
    ):
      ask(count + 1)


@pytest.mark.parametrize(
  ('fraction', 'part'), [(0.0, 'held-out'), (1.0, 'training')]
)
def test_a_part_without_a_window(section, fraction, part):
  with pytest.raises(ValueError, match=f'{part} text has 0 windows'):
    text_lib.load(section(eval_fraction=fraction))


def test_a_batch_that_does_not_divide(section):
  with pytest.raises(ValueError, match=r'batch_size=6 and 4 processes'):
    text_lib.load(section()).train(6, 0, 4)
