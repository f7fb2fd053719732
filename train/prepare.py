"""Makes data sets that `data.source` names: array_record below data.data_dir.

python -m train.prepare NAME [--data_dir DIR]       an official one, downloaded
python -m train.prepare NAME --texts PATTERN ...    texts; also a tokenizer
python -m train.prepare NAME --sentences FILE ...   labelled sentences or pairs
python -m train.prepare NAME --images FOLDER        FOLDER/CLASS/IMAGE
python -m train.prepare NAME --idx FOLDER           the files of (Fashion-)MNIST

Without --held_out and --eval_fraction a run holds out data.eval_fraction of the
examples itself; data.stream needs one of the two.
"""

import argparse
import pathlib
import sys
from typing import Any

from train.config import command_line as command
from train.data import datasets
from train.data import files
from train.data import labelled
from train.data import sources
from train.data import tokenizers

_VERSION = '1.0.0'


def main(argv: list[str]) -> int:
  """Writes a data set; returns the exit code."""
  try:
    options = _parser().parse_args(argv)
    datasets.check_name(options.name)
    done = _prepared(options, pathlib.Path(options.data_dir).expanduser())
  except (command.UsageError, ValueError, OSError, ImportError) as error:
    return command.fail(error)
  print(done)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.Parser(
    'python -m train.prepare',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('name', help='what data.source will call it')
  parser.add_argument('--data_dir', default='~/tensorflow_datasets')
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
    '--texts',
    nargs='+',
    metavar='PATTERN',
    help='UTF-8 texts, JSON lines and parquet, also compressed (.gz, .xz,'
    ' .bz2, .zst)',
  )
  what.add_argument(
    '--sentences',
    nargs='+',
    metavar='FILE',
    help='TSV (without quotes) or CSV, whose first line names the columns,'
    ' JSON lines, or parquet',
  )
  parser.add_argument(
    '--held_out',
    nargs='+',
    metavar='PATTERN',
    default=(),
    help='texts, sentences: files of the part to evaluate on',
  )
  parser.add_argument(
    '--eval_fraction',
    type=float,
    metavar='SHARE',
    help='texts, sentences: share that becomes the part to evaluate on',
  )
  parser.add_argument(
    '--text_field',
    metavar='FIELD',
    help='texts: field of JSON and parquet records that holds the text, by'
    " default 'text'; '' reads JSON as plain text",
  )
  parser.add_argument(
    '--columns',
    nargs='+',
    metavar='COLUMN',
    help='sentences: one or two columns of sentences, then that of the label',
  )
  parser.add_argument(
    '--score',
    action='store_true',
    help='sentences: labels are numbers to predict, not classes (fractions'
    ' always are)',
  )
  parser.add_argument(
    '--vocabulary',
    type=int,
    metavar='TOKENS',
    help='texts: learn a tokenizer from them, too: NAME/tokenizer.json',
  )
  what.add_argument(
    '--images',
    metavar='FOLDER',
    help='a folder per class, or train/ and val/ (or test/) with them',
  )
  what.add_argument(
    '--idx',
    metavar='FOLDER',
    help='train-images-idx3-ubyte.gz and its three companions',
  )
  parser.add_argument(
    '--size',
    type=int,
    metavar='PIXELS',
    help='images: scale and crop them to squares of this side',
  )
  return parser


def _prepared(options: argparse.Namespace, root: pathlib.Path) -> str:
  """Does what is asked for, and says where it lies."""
  _check_options(options)
  name = options.name
  if not (options.texts or options.sentences or options.images or options.idx):
    return download(name, root)
  _check_new(root / name / _VERSION)
  evaluation = sources.Evaluation(
    tuple(options.held_out), options.eval_fraction or 0.0
  )
  learnt = ''
  if options.texts:
    field = 'text' if options.text_field is None else options.text_field
    source = sources.texts(options.texts, field, evaluation)
    if options.vocabulary is not None:
      path = root / name / 'tokenizer.json'
      learnt = _learn_vocabulary(source, options.vocabulary, path)
  elif options.sentences:
    source = labelled.sentences(
      options.sentences, options.columns, options.score, evaluation
    )
  elif options.images:
    source = sources.images(options.images, options.size)
  else:
    source = sources.idx(options.idx)
  written = write(name, root, source) + learnt
  return '\n'.join((*map(_sentence, source.remarks), written))


def _check_options(options: argparse.Namespace) -> None:
  """Raises for options that do not belong together, or are out of range."""
  texts, sentences = bool(options.texts), bool(options.sentences)
  for option, given, fits, what in (
    ('vocabulary', options.vocabulary is not None, texts, '--texts'),
    ('text_field', options.text_field is not None, texts, '--texts'),
    ('columns', options.columns is not None, sentences, '--sentences'),
    ('score', options.score, sentences, '--sentences'),
    ('size', options.size is not None, bool(options.images), '--images'),
    (
      'held_out',
      bool(options.held_out),
      texts or sentences,
      '--texts or --sentences',
    ),
    (
      'eval_fraction',
      options.eval_fraction is not None,
      texts or sentences,
      '--texts or --sentences',
    ),
  ):
    if given and not fits:
      raise ValueError(
        f'--{option} is for {what}, got neither: give {what}, too, or leave'
        f' --{option} out.'
      )
  if options.columns is not None and len(options.columns) not in (2, 3):
    raise ValueError(
      '--columns must be SENTENCE LABEL or SENTENCE SENTENCE LABEL, got'
      f' {" ".join(options.columns)}.'
    )
  if options.size is not None and options.size < 1:
    raise ValueError(f'--size must be at least 1, got {options.size}.')
  fraction = options.eval_fraction
  if fraction is not None and not 0 < fraction < 1:
    raise ValueError(
      f'--eval_fraction must be between 0 and 1, got {fraction}: give the'
      ' share to evaluate on, such as 0.05.'
    )
  if fraction is not None and options.held_out:
    raise ValueError(
      '--held_out names the part to evaluate on, so that there is no share of'
      ' the rest to take: leave out one of --held_out and --eval_fraction.'
    )


def _sentence(remark: str) -> str:
  return f'{remark[0].upper()}{remark[1:]}.'


def _check_new(folder: pathlib.Path) -> None:
  """Raises if something lies where a data set is to be written."""
  if folder.exists():
    raise ValueError(
      f'{folder} is there already: take another name, or delete it to have it'
      ' written anew.'
    )


def _learn_vocabulary(
  source: sources.Source, size: int, path: pathlib.Path
) -> str:
  """Writes a tokenizer and says where it lies."""
  documents = (example['text'].decode() for example in source.splits['train']())
  path.parent.mkdir(parents=True, exist_ok=True)
  count = tokenizers.train(documents, size, str(path))
  return f'\n{count:,} tokens. Use them with --data.tokenizer {path}.'


def write(name: str, root: pathlib.Path, source: sources.Source) -> str:
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
  try:
    builder = Prepared(data_dir=root, file_format=datasets.FORMAT)
    return _prepare(tfds, builder, name, root)
  except (ValueError, OSError):
    raise
  except Exception as error:  # The libraries raise many kinds.
    raise ValueError(
      f'{name!r} cannot be written below {str(root)!r}'
      f' ({type(error).__name__}: {_first_line(error)}): see that there is'
      ' room and permission to write.'
    ) from error


def download(name: str, root: pathlib.Path) -> str:
  """Downloads an official data set and writes it as array_record.

  Raises:
    ValueError: there is none of that name, or preparing it fails.
  """
  tfds = datasets.library()
  official = datasets.official_names()
  if name.split('/')[0] not in official:
    raise ValueError(
      f'{name!r} must be a data set of tensorflow-datasets'
      f'{files.nearest(name, official)}: name one of its catalog, or say what'
      ' to make yours of with --texts, --sentences, --images or --idx.'
    )
  try:
    builder = tfds.builder(name, data_dir=root, file_format=datasets.FORMAT)
    return _prepare(tfds, builder, name, root)
  except Exception as error:  # The library and what it calls raise anything.
    raise ValueError(
      f'tensorflow-datasets cannot prepare {name!r} here'
      f' ({type(error).__name__}: {_first_line(error)}). It needs a network;'
      ' images need TensorFlow, and c4 apache-beam, to be prepared (not to be'
      ' read).'
      f' Where it can, this is the same: `tfds build {name} --file_format'
      f' {datasets.FORMAT} --data_dir {root}`.'
    ) from error


def _first_line(error: Exception) -> str:
  return str(error).strip().split('\n')[0]


def _prepare(tfds: Any, builder: Any, name: str, root: pathlib.Path) -> str:
  builder.download_and_prepare(
    file_format=datasets.FORMAT,
    download_config=tfds.download.DownloadConfig(
      download_mode=tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
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


if __name__ == '__main__':
  sys.exit(command.run(main))
