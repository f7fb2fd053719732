"""Is the text the same for every process, resume and split, and read right?"""

import io
import json
import lzma
import sys

import numpy as np
import pytest

from train import config
from train import data
from train.data import corpus
from train.data import tokenizers

LINES = [f'line {i}: the value of {i * i} is not {i}é\n' for i in range(400)]


def read_files(*patterns):
  return corpus.read('files', [str(pattern) for pattern in patterns])


@pytest.fixture
def folder(tmp_path):
  """Forty texts of different sizes, one of them below a subfolder."""
  (tmp_path / 'sub').mkdir()
  for i in range(39):
    (tmp_path / f'{i:02}.txt').write_text(f'{i}\n' + ''.join(LINES[: 5 + i]))
  (tmp_path / 'sub' / 'deep.txt').write_text('deep\n' + ''.join(LINES[:20]))
  return tmp_path


@pytest.fixture
def section(folder):
  """Builds the data section of a configuration for these texts."""
  def build(**changes):
    values = dict(
        source='files', files=(str(folder / '**' / '*.txt'),),
        sequence_length=32, eval_fraction=0.1,
    )
    return config.Data(**(values | changes))
  return build


def take(iterator, count):
  return np.stack([next(iterator) for _ in range(count)])


# The order of the training windows.


def test_batches_are_reproducible_and_depend_on_the_seed(section):
  first = take(data.load(section()).train(4), 5)
  again = take(data.load(section()).train(4), 5)
  other = take(data.load(section(seed=1)).train(4), 5)
  assert first.dtype == np.int32
  assert first.shape == (5, 4, 33)
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_an_epoch_holds_every_window_once_and_the_next_is_reshuffled(section):
  text = data.load(section())
  count = len(text.training_windows)
  windows = take(text.train(1), 2 * count)[:, 0]
  expected = sorted(text.training_windows.tolist())
  for epoch in (windows[:count], windows[count:]):
    assert sorted(epoch.tolist()) == expected
  assert (windows[:count] != windows[count:]).any()


def test_the_second_epoch_of_a_seed_is_not_the_first_of_the_next(section):
  text = data.load(section())
  count = len(text.training_windows)
  second = take(text.train(1), 2 * count)[count:]
  first = take(data.load(section(seed=1)).train(1), count)
  assert (first != second).any()


@pytest.mark.parametrize('where', ['within an epoch', 'across epochs'])
def test_resuming_equals_going_on(section, where):
  text = data.load(section())
  steps_per_epoch = len(text.training_windows) / 8
  stop = 3 if where == 'within an epoch' else int(steps_per_epoch)
  assert not steps_per_epoch.is_integer()  # A batch spans the border.
  whole = text.train(8)
  take(whole, stop)
  state = json.loads(json.dumps(whole.get_state()))
  resumed = data.load(section()).train(8)
  next(resumed)  # What was read before set_state does not matter.
  resumed.set_state(state)
  np.testing.assert_array_equal(take(resumed, 4), take(whole, 4))


@pytest.mark.parametrize('process_count', [2, 4])
def test_processes_share_the_batch_of_one(section, process_count):
  text = data.load(section())
  iterators = [text.train(8, p, process_count) for p in range(process_count)]
  parts = [take(iterator, 20) for iterator in iterators]
  whole = text.train(8)
  np.testing.assert_array_equal(np.concatenate(parts, 1), take(whole, 20))
  for iterator in iterators:
    assert iterator.get_state() == whole.get_state()


def test_a_state_of_one_process_continues_on_four(section):
  text = data.load(section())
  whole = text.train(8)
  take(whole, 3)
  iterators = [text.train(8, p, 4) for p in range(4)]
  for iterator in iterators:
    iterator.set_state(whole.get_state())
  parts = [next(iterator) for iterator in iterators]
  np.testing.assert_array_equal(np.concatenate(parts), next(whole))


# The held-out part.


def test_evaluation_is_spread_evenly_and_independent_of_the_seed(section):
  text = data.load(section())
  other = data.load(section(seed=7))
  total = len(text.held_out_windows)
  windows = text.evaluation(3)
  assert windows.dtype == np.int32
  np.testing.assert_array_equal(windows, other.evaluation(3))
  np.testing.assert_array_equal(
      windows, text.held_out_windows[[0, total // 3, 2 * total // 3]]
  )
  assert text.description == other.description


def test_whole_files_are_held_out_to_about_the_fraction(folder):
  texts = read_files(folder / '**' / '*.txt')
  train, held_out = corpus.split(texts, 0.1)
  assert sorted(train + held_out, key=lambda d: d.name) == [*texts.documents]
  size = sum(len(document.text) for document in held_out)
  assert 0.05 * texts.num_bytes <= size <= 0.1 * texts.num_bytes
  assert not {d.text for d in train} & {d.text for d in held_out}


def test_the_split_follows_names_not_places(folder, tmp_path):
  moved = tmp_path / 'elsewhere'
  moved.mkdir()
  for path in folder.glob('*.txt'):
    (moved / path.name).write_bytes(path.read_bytes())
  here, there = read_files(folder / '*.txt'), read_files(moved / '*.txt')
  assert here.sha256 == there.sha256
  assert corpus.split(here, 0.1) == corpus.split(there, 0.1)


def test_the_split_is_the_same_in_every_release():
  texts = corpus.Corpus('letters', tuple(
      corpus.Document(name, name.encode()) for name in 'abcdefghij'
  ))
  _, held_out = corpus.split(texts, 0.3)
  # Runs before and after a change of this do not compare.
  assert ''.join(document.name for document in held_out) == 'dfj'


def test_the_end_of_a_single_file_is_held_out(tmp_path):
  path = tmp_path / 'one.txt'
  path.write_text('é' * 101)
  (train,), (held_out,) = corpus.split(read_files(path), 0.26)
  assert train.text + held_out.text == path.read_bytes()
  assert held_out.text.decode() == 'é' * 27  # 53 bytes would cut a letter.


def test_copies_and_empty_files_are_dropped(tmp_path):
  for name, text in {'a': 'same', 'b': 'same', 'c': '', 'd': 'other'}.items():
    (tmp_path / name).write_text(text)
  documents = read_files(tmp_path / '*').documents
  assert [(d.name, d.text) for d in documents] == [
      ('a', b'same'), ('d', b'other'),
  ]


def test_the_hash_follows_texts_and_names(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('one')
  before = read_files(path).sha256
  path.write_text('two')
  changed = read_files(path).sha256
  renamed = read_files(path.rename(tmp_path / 'b.txt')).sha256
  assert len({before, changed, renamed}) == 3


def test_xz_is_read_as_its_text(tmp_path):
  (tmp_path / 'a.txt.xz').write_bytes(lzma.compress(b'packed'))
  assert read_files(tmp_path / 'a.txt.xz').documents[0].text == b'packed'


def test_a_file_name_may_look_like_a_pattern(tmp_path):
  (tmp_path / 'a[1].txt').write_text('text')
  assert read_files(tmp_path / 'a[1].txt').documents[0].text == b'text'


def test_the_standard_library_comes_without_tests_and_packages():
  texts = corpus.read('python-stdlib')
  names = {document.name for document in texts.documents}
  folders = {part for name in names for part in name.split('/')[:-1]}
  assert {'functools.py', 'json/decoder.py'} <= names
  assert not folders & {'test', 'tests', 'idle_test', 'site-packages'}
  assert not any(name.startswith('_sysconfigdata') for name in names)
  assert sys.version.split()[0] in texts.name


# Tokenizers.


@pytest.fixture(scope='module')
def sentencepiece_path(tmp_path_factory):
  sentencepiece = pytest.importorskip('sentencepiece')
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(LINES), model_writer=model, vocab_size=400,
      model_type='bpe', byte_fallback=True, minloglevel=2,
      normalization_rule_name='identity', remove_extra_whitespaces=False,
  )
  path = tmp_path_factory.mktemp('tokenizer') / 'tiny.model'
  path.write_bytes(model.getvalue())
  return str(path)


@pytest.fixture(scope='module')
def huggingface_path(tmp_path_factory):
  """A byte-level BPE whose file asks for truncation and padding."""
  library = pytest.importorskip('tokenizers')
  model = library.Tokenizer(library.models.BPE())
  model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = library.decoders.ByteLevel()
  model.train_from_iterator(LINES, library.trainers.BpeTrainer(
      vocab_size=400, special_tokens=['<|endoftext|>'], show_progress=False,
      initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
  ))
  model.enable_truncation(8)
  model.enable_padding(length=4096)
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  model.save(str(path))
  return str(path)


def test_bytes_round_trip():
  tokenizer = tokenizers.load('bytes')
  text = ''.join(LINES).encode()
  tokens = tokenizer.encode(text)
  assert tokens.dtype == np.uint8
  assert tokens.tobytes() == text


@pytest.mark.parametrize('chunk_bytes', [100, 1 << 20])
def test_sentencepiece_round_trip(sentencepiece_path, chunk_bytes, monkeypatch):
  import sentencepiece

  monkeypatch.setattr(tokenizers, '_CHUNK_BYTES', chunk_bytes)
  model = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
  tokenizer = tokenizers.load(sentencepiece_path)
  tokens = tokenizer.encode(''.join(LINES).encode())
  assert tokens.dtype == np.uint16
  assert tokens.max() < tokenizer.vocab_size == 400
  assert tokenizer.end_of_text == model.eos_id()
  # The library puts a space before whatever it encodes: one per chunk.
  decoded = model.decode(tokens.tolist()).replace('\n ', '\n')
  assert decoded == ''.join(LINES)


@pytest.mark.parametrize('chunk_bytes', [100, 1 << 20])
def test_huggingface_round_trip(huggingface_path, chunk_bytes, monkeypatch):
  import tokenizers as library

  monkeypatch.setattr(tokenizers, '_CHUNK_BYTES', chunk_bytes)
  model = library.Tokenizer.from_file(huggingface_path)
  tokenizer = tokenizers.load(huggingface_path)
  tokens = tokenizer.encode(''.join(LINES).encode())
  assert tokens.dtype == np.uint16
  assert tokens.max() < tokenizer.vocab_size == model.get_vocab_size()
  assert tokenizer.end_of_text == model.token_to_id('<|endoftext|>')
  decoded = model.decode(tokens.tolist(), skip_special_tokens=False)
  assert decoded == ''.join(LINES)


@pytest.mark.parametrize('name', ['bytes', 'sentencepiece', 'huggingface'])
def test_documents_end_with_the_mark_and_count_their_bytes(
    section, folder, request, name
):
  fixture = None if name == 'bytes' else f'{name}_path'
  path = request.getfixturevalue(fixture) if fixture else name
  text = data.load(section(tokenizer=path))
  tokenizer = tokenizers.load(path)
  assert text.description['tokenizer'] == tokenizer.name
  assert text.vocab_size == tokenizer.vocab_size
  _, held_out = corpus.split(read_files(folder / '**' / '*.txt'), 0.1)
  tokens = np.concatenate([
      np.append(tokenizer.encode(d.text), tokenizer.end_of_text)
      for d in held_out
  ])
  whole = text.held_out_windows.ravel()
  np.testing.assert_array_equal(whole, tokens[: whole.size])
  size = sum(len(document.text) + 1 for document in held_out)
  assert text.bytes_per_token == size / tokens.size
  assert (text.bytes_per_token == 1) == (name == 'bytes')


def test_a_tokenizer_is_told_apart_by_its_content(huggingface_path, tmp_path):
  copy = tmp_path / 'tokenizer.json'
  with open(huggingface_path, encoding='utf-8') as file:
    copy.write_text(file.read())
  name = tokenizers.load(huggingface_path).name
  assert tokenizers.load(str(copy)).name == name
  copy.write_text(copy.read_text().replace('<|endoftext|>', '</s>'))
  assert tokenizers.load(str(copy)).name != name


# What goes wrong is said plainly.


def test_an_unknown_source():
  with pytest.raises(ValueError, match="'python-stdlib' or 'files', got 'web'"):
    corpus.read('web')


def test_a_pattern_without_a_file(tmp_path):
  with pytest.raises(ValueError, match=r'nothing\*.*matches none'):
    read_files(tmp_path / 'nothing*')
  with pytest.raises(ValueError, match=r'a folder needs a pattern'):
    read_files(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path):
  (tmp_path / 'damaged.xz').write_bytes(lzma.compress(b'text')[:-4])
  (tmp_path / 'plain.xz').write_bytes(b'text')
  for name in ('damaged.xz', 'plain.xz'):
    with pytest.raises(ValueError, match=f'Cannot read .*{name}.* mend it'):
      read_files(tmp_path / name)


def test_a_file_that_is_not_utf8(tmp_path):
  (tmp_path / 'latin.txt').write_bytes('caf\xe9 au lait'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'UTF-8 text, got byte 0xe9 at offset 3'):
    read_files(tmp_path / 'latin.txt')


def test_a_corpus_without_text(tmp_path, monkeypatch):
  (tmp_path / 'empty.txt').touch()
  with pytest.raises(ValueError, match=r'must hold text, got 1 files'):
    read_files(tmp_path / 'empty.txt')
  monkeypatch.setattr('sysconfig.get_path', lambda name: str(tmp_path))
  with pytest.raises(ValueError, match=r'must hold text, got 0 files'):
    corpus.read('python-stdlib')


def test_too_few_windows(section):
  text = data.load(section())
  for part, windows, ask in (
      ('training', text.training_windows, text.train),
      ('held-out', text.held_out_windows, text.evaluation),
  ):
    count = len(windows)
    assert ask(count) is not None
    with pytest.raises(ValueError, match=(
        rf'{part} text has {count} windows .* = 33 tokens, .* needs {count + 1}'
    )):
      ask(count + 1)


@pytest.mark.parametrize(
    ('fraction', 'part'), [(0.0, 'held-out'), (1.0, 'training')]
)
def test_a_part_without_a_window(section, fraction, part):
  with pytest.raises(ValueError, match=f'{part} text has 0 windows'):
    data.load(section(eval_fraction=fraction))


def test_a_batch_that_does_not_divide(section):
  with pytest.raises(ValueError, match=r'batch_size=6 and 4 processes'):
    data.load(section()).train(6, 0, 4)


def test_an_unknown_tokenizer(tmp_path):
  with pytest.raises(ValueError, match="must be 'bytes' or .* got 'gpt2'"):
    tokenizers.load('gpt2')
  with pytest.raises(ValueError, match=r'there is no .*absent.model'):
    tokenizers.load(str(tmp_path / 'absent.model'))


@pytest.mark.parametrize(('name', 'kind', 'library'), [
    ('bad.model', 'SentencePiece model', 'sentencepiece'),
    ('bad.json', 'Hugging Face tokenizer', 'tokenizers'),
])
def test_a_damaged_tokenizer_and_a_missing_library(
    tmp_path, monkeypatch, name, kind, library
):
  pytest.importorskip(library)
  path = tmp_path / name
  path.write_text('{}')
  with pytest.raises(ValueError, match=f'must be a {kind}, .*{name}'):
    tokenizers.load(str(path))
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(ImportError, match=rf'{library}: pip .*-jax\[train\]'):
    tokenizers.load(str(path))
