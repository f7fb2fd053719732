"""Do tokenizers give their text back, and say where documents end?"""

import functools
import io
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


@pytest.fixture(scope='module')
def sentencepiece_path(tmp_path_factory):
  sentencepiece = pytest.importorskip('sentencepiece')
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts.LINES),
    model_writer=model,
    vocab_size=400,
    model_type='bpe',
    byte_fallback=True,
    minloglevel=2,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
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
  model.train_from_iterator(
    texts.LINES,
    library.trainers.BpeTrainer(
      vocab_size=400,
      special_tokens=['<|endoftext|>'],
      show_progress=False,
      initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  model.enable_truncation(8)
  model.enable_padding(length=4096)
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.json'
  model.save(str(path))
  return str(path)


def test_bytes_round_trip():
  tokenizer = tokenizers.load('bytes')
  text = ''.join(texts.LINES).encode()
  tokens = tokenizer.encode(text)
  assert tokens.dtype == np.uint8
  assert tokens.tobytes() == text


@pytest.mark.parametrize('chunk_bytes', [100, 1 << 20])
def test_sentencepiece_round_trip(sentencepiece_path, chunk_bytes):
  import sentencepiece

  model = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
  tokenizer = tokenizers.load(sentencepiece_path)
  tokenizer.chunk_bytes = chunk_bytes
  tokens = tokenizer.encode(''.join(texts.LINES).encode())
  assert tokens.dtype == np.uint16
  assert tokens.max() < tokenizer.vocab_size == 400
  assert tokenizer.end_of_text == model.eos_id()
  assert model.decode(tokens.tolist()) == ''.join(texts.LINES)


@pytest.mark.parametrize('chunk_bytes', [100, 1 << 20])
def test_huggingface_round_trip(huggingface_path, chunk_bytes):
  import tokenizers as library

  model = library.Tokenizer.from_file(huggingface_path)
  tokenizer = tokenizers.load(huggingface_path)
  tokenizer.chunk_bytes = chunk_bytes
  tokens = tokenizer.encode(''.join(texts.LINES).encode())
  assert tokens.dtype == np.uint16
  assert tokens.max() < tokenizer.vocab_size == model.get_vocab_size()
  assert tokenizer.end_of_text == model.token_to_id('<|endoftext|>')
  decoded = model.decode(tokens.tolist(), skip_special_tokens=False)
  assert decoded == ''.join(texts.LINES)


def prefixed(folder, library):
  """Three tokenizers that begin whatever they encode with a space."""
  paths = []
  for name, before in (
    ('meta', library.pre_tokenizers.Metaspace()),
    ('byte', library.pre_tokenizers.ByteLevel(add_prefix_space=True)),
    ('word', library.pre_tokenizers.Whitespace()),
  ):
    is_word = name == 'word'
    of = library.models.WordPiece if is_word else library.models.BPE
    model = library.Tokenizer(of(unk_token='[UNK]'))
    model.pre_tokenizer = before
    train = library.trainers
    trainer = (train.WordPieceTrainer if is_word else train.BpeTrainer)(
      vocab_size=300, special_tokens=['[UNK]'], show_progress=False
    )
    model.train_from_iterator(texts.LINES, trainer)
    paths.append(str(folder / f'{name}.json'))
    model.save(paths[-1])
  return paths


WITHOUT_LINES = {
  'spaces': ' '.join(texts.LINES).replace('\n', ''),
  'no spaces': ''.join(''.join(texts.LINES).split()),
  'one letter': 'é' * 3000,
  'runs of spaces': 'the   value \n\n  is ' * 300,
}


@pytest.mark.parametrize('text', WITHOUT_LINES.values(), ids=WITHOUT_LINES)
def test_chunks_are_encoded_as_the_whole_text(
  sentencepiece_path, huggingface_path, tmp_path, text
):
  """With and without line breaks, and without tokens that begin a text."""
  import sentencepiece
  import tokenizers as library

  model = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
  cases = [(sentencepiece_path, model.encode)]
  for path in (huggingface_path, *prefixed(tmp_path, library)):
    if path.endswith('word.json') and ' ' not in text:
      continue  # All of it is one word.
    whole = library.Tokenizer.from_file(path)
    whole.no_truncation()
    whole.no_padding()
    cases.append((path, lambda x, of=whole: of.encode(x).ids))
  for path, encode in cases:
    tokenizer = tokenizers.load(path)
    tokenizer.chunk_bytes = 900
    found = tokenizer.encode(text.encode())
    assert found.tolist() == encode(text), path


def test_memory_is_bounded_for_a_text_of_one_line():
  longest = 0

  class Letters(tokenizers.Subwords):
    name, vocab_size, end_of_text = 'letters', 256, None
    chunk_bytes = 1000

    def ids(self, text):
      nonlocal longest
      longest = max(longest, len(text))
      return [*text.encode()]

  text = b'x' * 50_000
  found = Letters().encode(text)
  assert found.tobytes() == text and longest < 1500


def test_a_text_that_cannot_be_encoded(tmp_path):
  library = pytest.importorskip('tokenizers')
  model = library.Tokenizer(library.models.WordLevel({'a': 0}, unk_token='?'))
  model.save(str(tmp_path / 'a.json'))
  with pytest.raises(ValueError, match=r"a\.json .* fails \(.*\) at 'words'"):
    tokenizers.load(str(tmp_path / 'a.json')).encode(b'words')
  with pytest.raises(ValueError, match=r'without NUL bytes, .* at offset 1'):
    tokenizers.load('bytes').encode(b'a\0b')


@pytest.mark.parametrize('name', ['bytes', 'sentencepiece', 'huggingface'])
def test_documents_end_with_the_mark_and_count_their_bytes(
  section, folder, request, name
):
  fixture = None if name == 'bytes' else f'{name}_path'
  path = request.getfixturevalue(fixture) if fixture else name
  text = text_lib.load(section(tokenizer=path))
  tokenizer = tokenizers.load(path)
  assert text.description['tokenizer'] == tokenizer.name
  assert text.vocab_size == tokenizer.vocab_size
  _, held_out = corpus.split(texts.read(folder / '**' / '*.txt'), 0.1)
  tokens = np.concatenate(
    [
      np.append(tokenizer.encode(d.text), tokenizer.end_of_text)
      for d in held_out
    ]
  )
  whole = text.held_out[0].windows.ravel()
  np.testing.assert_array_equal(whole, tokens[: whole.size])
  size = sum(len(document.text) + 1 for document in held_out)
  assert text.held_out[0].bytes_per_token == size / tokens.size
  assert (text.held_out[0].bytes_per_token == 1) == (name == 'bytes')


def test_a_tokenizer_is_identified_by_its_content(huggingface_path, tmp_path):
  copy = tmp_path / 'tokenizer.json'
  with open(huggingface_path, encoding='utf-8') as file:
    copy.write_text(file.read())
  name = tokenizers.load(huggingface_path).name
  assert tokenizers.load(str(copy)).name == name
  copy.write_text(copy.read_text().replace('<|endoftext|>', '</s>'))
  assert tokenizers.load(str(copy)).name != name


# What goes wrong is said plainly.


def test_an_unknown_tokenizer(tmp_path):
  with pytest.raises(ValueError, match=r"must be 'bytes' or .* got 'gpt2'"):
    tokenizers.load('gpt2')
  with pytest.raises(ValueError, match=r'there is no .*absent.model'):
    tokenizers.load(str(tmp_path / 'absent.model'))


@pytest.mark.parametrize(
  ('name', 'kind', 'library'),
  [
    ('bad.model', 'SentencePiece model', 'sentencepiece'),
    ('bad.json', 'Hugging Face tokenizer', 'tokenizers'),
  ],
)
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
