"""Are files read as what they are, and what is no text refused with advice?"""

import bz2
import gzip
import json
import lzma
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import texts
from train.data import corpus, files

TEXT = 'naïve words, and a second line\nwith 7 more.\n'


def zst(content):
  pyarrow = pytest.importorskip('pyarrow')
  return pyarrow.compress(content, codec='zstd', asbytes=True)


def parquet(path, **columns):
  arrow = pytest.importorskip('pyarrow')
  import pyarrow.parquet

  pyarrow.parquet.write_table(arrow.table(columns), path)


COMPRESS = {
  'gz': gzip.compress,
  'xz': lzma.compress,
  'bz2': bz2.compress,
  'zst': zst,
}


@pytest.mark.parametrize('kind', COMPRESS)
@pytest.mark.parametrize('name', ['a.txt.{}', 'A.TXT.{}', 'no_ending'])
def test_a_compressed_text_is_its_text_whatever_its_name(tmp_path, kind, name):
  ending = kind.upper() if name.isupper() else kind
  path = tmp_path / name.format(ending)
  path.write_bytes(COMPRESS[kind](TEXT.encode()))
  assert [*files.texts(str(path), 'text')] == [TEXT.encode()]


@pytest.mark.parametrize('kind', COMPRESS)
def test_a_damaged_archive_is_reported_by_name(tmp_path, kind):
  path = tmp_path / 'damaged'
  path.write_bytes(COMPRESS[kind](TEXT.encode() * 99)[:-6])
  with pytest.raises(ValueError, match=r"Cannot read '.*damaged' .*; mend it"):
    [*files.texts(str(path), 'text')]


def test_the_mark_of_utf8_is_no_text(tmp_path):
  (tmp_path / 'a.txt').write_text(TEXT, encoding='utf-8-sig')
  assert [*files.texts(str(tmp_path / 'a.txt'), '')] == [TEXT.encode()]


@pytest.mark.parametrize(
  'encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'latin-1']
)
def test_advice_for_another_encoding_helps(tmp_path, encoding):
  path = tmp_path / 'a.txt'
  path.write_bytes(TEXT.encode(encoding))
  with pytest.raises(ValueError, match=r'a\.txt.* must be') as caught:
    [*files.texts(str(path), '')]
  command = re.search(r'\((iconv [^)]*)\)', str(caught.value))[1]
  if not shutil.which('iconv'):
    pytest.skip('needs iconv')
  command = command.replace('ENCODING', 'LATIN1')
  done = subprocess.run(
    [*command.split(), str(path)], capture_output=True, check=True
  )
  path.write_bytes(done.stdout)
  assert [*files.texts(str(path), '')] == [TEXT.encode()]


def test_what_is_no_text_is_not_sent_to_iconv(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
    file.writestr('a.txt', TEXT)
  path = tmp_path / 'b.bin'
  path.write_bytes(b'words\0words')
  (tmp_path / 'c.pdf').write_bytes(b'%PDF-1.7\n\xe2\xe3')
  for name, said in (
    ('a.zip', 'is a zip archive: unpack it'),
    ('b.bin', 'NUL byte at offset 5'),
    ('c.pdf', 'is a PDF: extract its text'),
  ):
    with pytest.raises(ValueError, match=said):
      [*files.texts(str(tmp_path / name), '')]


def test_records_that_are_no_text_are_reported(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.xlsx', 'w') as file:
    file.writestr('sheet', TEXT)
  (tmp_path / 'b.jsonl').write_bytes('{"text": "naïve"}'.encode('latin-1'))
  for name, said in (('a.xlsx', 'is a zip archive'), ('b.jsonl', 'iconv')):
    with pytest.raises(ValueError, match=said):
      [*files.records(str(tmp_path / name))]


def test_text_that_resembles_a_format_is_text(tmp_path):
  path = tmp_path / 'a.txt'
  for text in ('x' * 256 + 'mustard', 'BZh is short', 'Rar! That was close.'):
    path.write_text(text)
    assert [*files.texts(str(path), 'text')] == [text.encode()]


RECORDS = [{'id': 1, 'text': 'one'}, {'id': 2, 'text': 'zwölf'}]


LINES = ''.join(json.dumps(x) + '\n\n' for x in RECORDS)


@pytest.mark.parametrize('name', ['a.jsonl', 'a.txt', 'a.json'])
@pytest.mark.parametrize(
  'lines', [LINES, json.dumps(RECORDS), json.dumps(RECORDS, indent=1)]
)
def test_records_in_json_are_texts_not_json(tmp_path, name, lines):
  path = tmp_path / name
  path.write_text(lines)
  assert [*files.texts(str(path), 'text')] == [b'one', 'zwölf'.encode()]
  assert [*files.texts(str(path), '')] == [lines.encode()], 'if so asked'
  path.write_bytes(zst(lines.encode()))
  assert len([*files.texts(str(path), 'text')]) == 2


def test_ordinary_json_and_code_are_plain_text(tmp_path):
  for i, text in enumerate(
    (
      '{"a": 1}',
      '{\n  "a": 1\n}\n',
      '{"a": 1}\nand words\n',
      '{a}\n{b}\n',
      '["a", "b"]',
      '[{a}]',
    )
  ):
    path = tmp_path / f'{i}.json'
    path.write_text(text)
    assert [*files.texts(str(path), 'text')] == [text.encode()]


def test_parquet_is_read_by_its_field(tmp_path):
  path = tmp_path / 'a.parquet'
  parquet(path, text=['one', None, 'three'], other=[1, 2, 3])
  assert [*files.texts(str(path), 'text')] == [b'one', b'', b'three']
  found = [row for _, row in files.records(str(path))]
  assert found[2] == {'text': 'three', 'other': 3}
  message = r"field 'txt', got text, other; the nearest is 'text'"
  with pytest.raises(ValueError, match=message):
    [*files.texts(str(path), 'txt')]
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match=r'Cannot read .*a\.parquet.* as par'):
    [*files.texts(str(path), 'text')]


def test_without_its_library_parquet_is_reported(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'PAR1')
  (tmp_path / 'b').write_bytes(zst(b'text'))
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  for name, kind in (('a', 'parquet'), ('b', r'\.zst')):
    with pytest.raises(
      ImportError,
      match=(
        rf"{name}' is {kind} and needs .* pip install 'greedylore-jax\[data\]'"
      ),
    ):
      [*files.texts(str(tmp_path / name), 'text')]


@pytest.mark.parametrize(
  ('line', 'said'),
  [
    (
      '{"txt": "a"}',
      r"line 2 must have the field 'text', got txt; the nearest"
      r" is 'txt': set data\.text_field",
    ),
    ('{"text": 3}', r"line 2 must hold a text in the field 'text', got 3"),
    ('{"text": "a"', r'line 2 must be JSON'),
    ('[' * 100_000, r'line 2 must be JSON'),
    ('["a"]', r"line 2 must be a JSON object, .* got \['a'\]"),
    ('{"text": "a\\u0000"}', r'line 2 must be UTF-8 text, got a NUL byte'),
    ('{"text": "a\\ud800"}', r'line 2 must hold valid Unicode'),
    ('{"text": 1' + '0' * 5000 + '}', r'line 2 must be JSON'),
  ],
)
def test_a_bad_record_is_reported_with_its_line(tmp_path, line, said):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "fine"}\n' + line)
  with pytest.raises(ValueError, match=said):
    [*files.texts(str(path), 'text')]


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('a.csv', '\ufeffid,text\r\n1,one\r\n2,"zwei, ""drei""\nvier"\r\n'),
    (
      'a.jsonl',
      '{"id": "1", "text": "one"}\n'
      '{"id": "2", "text": "zwei, \\"drei\\"\\nvier"}\n',
    ),
    (
      'a.json',
      '[{"id": "1", "text": "one"},\n'
      ' {"id": "2", "text": "zwei, \\"drei\\"\\nvier"}]',
    ),
  ],
)
@pytest.mark.parametrize('compress', [False, True])
def test_records_of_every_format_are_equal(tmp_path, name, content, compress):
  encoded = content.encode()
  if compress:
    name, encoded = f'{name}.gz', gzip.compress(encoded)
  (tmp_path / name).write_bytes(encoded)
  found = [row for _, row in files.records(str(tmp_path / name))]
  assert found == [
    {'id': '1', 'text': 'one'},
    {'id': '2', 'text': 'zwei, "drei"\nvier'},
  ]


def test_tsv_has_no_quotes(tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_text('text\tlabel\n"Not closed, he said.\t1\n"whole"\t0\n')
  found = [row for _, row in files.records(str(path))]
  assert found == [
    {'text': '"Not closed, he said.', 'label': '1'},
    {'text': '"whole"', 'label': '0'},
  ]


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('a.tsv', 'a\tb\n1\n', 'line 2 must have 2 fields, .* got 1'),
    ('a.tsv', 'a\tb\n"x ""y"" z"\t1\n', 'line 2 has quotes as in CSV'),
    ('a.csv', 'a,b\n"x,1\n2,3\n', r'a\.csv.* is not read as CSV'),
    ('a.csv', 'a,a\n1,2\n', "must name its columns, each differently, .*'a'"),
    ('a.csv', 'a,b\n1,2,3\n', 'line 2 must have 2 fields, .* got 3'),
  ],
)
def test_rows_that_would_shift_are_refused(tmp_path, name, content, said):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=said):
    [*files.records(str(tmp_path / name))]


def test_what_is_left_out_is_counted(tmp_path):
  for name, text in {'a': 'same', 'b': 'same', 'c': '', 'd': 'other'}.items():
    (tmp_path / name).write_text(text)
  path = tmp_path / 'e.jsonl'
  path.write_text('{"text": null}\n{"text": "same"}\n{"text": "third"}\n')
  found = texts.read(tmp_path / '*')
  assert sorted(d.text for d in found.documents) == [
    b'other',
    b'same',
    b'third',
  ]
  assert found.left_out == ('2 empty texts', '2 repeated texts')


def test_names_and_compression_are_not_a_text_s_identity(tmp_path):
  contents = [f'{i} words\n'.encode() * (9 + i) for i in range(12)]
  plain, packed = tmp_path / 'plain', tmp_path / 'packed'
  plain.mkdir()
  packed.mkdir()
  for i, content in enumerate(contents):
    (plain / f'{i:02}.txt').write_bytes(content)
    (packed / f'renamed {99 - i}.txt.gz').write_bytes(gzip.compress(content))
  lines = (json.dumps({'text': x.decode()}) + '\n' for x in contents)
  (tmp_path / 'all.jsonl').write_text(''.join(lines))
  found = [
    texts.read(x) for x in (plain / '*', packed / '*', tmp_path / 'all.jsonl')
  ]
  assert len({x.sha256 for x in found}) == 1
  parts = [corpus.split(x, 0.3) for x in found]
  assert parts[0] == parts[1] == parts[2] and len(parts[0][1]) > 1
  (plain / '03.txt').write_bytes(b'others')
  assert texts.read(plain / '*').sha256 != found[0].sha256
