"""Do tokenizers give their text back, and say where documents end?"""

import functools
import io
import sys

import numpy as np
import pytest

import texts
from train.data import corpus
from train.data import text as text_lib
from train.data import tokenizers


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
      sentence_iterator=iter(texts.LINES), model_writer=model, vocab_size=400,
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
  model.train_from_iterator(texts.LINES, library.trainers.BpeTrainer(
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
  text = ''.join(texts.LINES).encode()
  tokens = tokenizer.encode(text)
  assert tokens.dtype == np.uint8
  assert tokens.tobytes() == text


@pytest.mark.parametrize('chunk_bytes', [100, 1 << 20])
def test_sentencepiece_round_trip(sentencepiece_path, chunk_bytes, monkeypatch):
  import sentencepiece

  monkeypatch.setattr(tokenizers, '_CHUNK_BYTES', chunk_bytes)
  model = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
  tokenizer = tokenizers.load(sentencepiece_path)
  tokens = tokenizer.encode(''.join(texts.LINES).encode())
  assert tokens.dtype == np.uint16
  assert tokens.max() < tokenizer.vocab_size == 400
  assert tokenizer.end_of_text == model.eos_id()
  # The library puts a space before whatever it encodes: one per chunk.
  decoded = model.decode(tokens.tolist()).replace('\n ', '\n')
  assert decoded == ''.join(texts.LINES)


@pytest.mark.parametrize('chunk_bytes', [100, 1 << 20])
def test_huggingface_round_trip(huggingface_path, chunk_bytes, monkeypatch):
  import tokenizers as library

  monkeypatch.setattr(tokenizers, '_CHUNK_BYTES', chunk_bytes)
  model = library.Tokenizer.from_file(huggingface_path)
  tokenizer = tokenizers.load(huggingface_path)
  tokens = tokenizer.encode(''.join(texts.LINES).encode())
  assert tokens.dtype == np.uint16
  assert tokens.max() < tokenizer.vocab_size == model.get_vocab_size()
  assert tokenizer.end_of_text == model.token_to_id('<|endoftext|>')
  decoded = model.decode(tokens.tolist(), skip_special_tokens=False)
  assert decoded == ''.join(texts.LINES)


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
  tokens = np.concatenate([
      np.append(tokenizer.encode(d.text), tokenizer.end_of_text)
      for d in held_out
  ])
  whole = text.held_out[0].windows.ravel()
  np.testing.assert_array_equal(whole, tokens[: whole.size])
  size = sum(len(document.text) + 1 for document in held_out)
  assert text.held_out[0].bytes_per_token == size / tokens.size
  assert (text.held_out[0].bytes_per_token == 1) == (name == 'bytes')


def test_a_tokenizer_is_told_apart_by_its_content(huggingface_path, tmp_path):
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
