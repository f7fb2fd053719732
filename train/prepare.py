"""Makes data sets that `data.source` names: array_record below data.data_dir.

python -m train.prepare NAME [--data_dir DIR]       an official one, downloaded
python -m train.prepare NAME --texts PATTERN ...    text files, tokenizer
python -m train.prepare NAME --images FOLDER        FOLDER/CLASS/IMAGE
python -m train.prepare NAME --idx FOLDER           the files of (Fashion-)MNIST
"""

import argparse
import pathlib
import sys
from typing import Any

from train import command
from train.data import datasets
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
      'python -m train.prepare', description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  parser.add_argument('name', help='what data.source will call it')
  parser.add_argument('--data_dir', default='~/tensorflow_datasets')
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
      '--texts', nargs='+', metavar='PATTERN',
      help='UTF-8 text files, a document each (.xz is read, too)',
  )  # fmt: skip
  parser.add_argument(
      '--vocabulary', type=int, metavar='TOKENS',
      help='learn a tokenizer from the texts, too: NAME/tokenizer.json',
  )  # fmt: skip
  what.add_argument(
      '--images', metavar='FOLDER',
      help='a folder per class, or train/ and test/ (or validation/) with them',
  )  # fmt: skip
  what.add_argument(
      '--idx', metavar='FOLDER',
      help='train-images-idx3-ubyte.gz and its three companions',
  )  # fmt: skip
  parser.add_argument(
      '--size', type=int, metavar='PIXELS',
      help='scale and crop images to squares of this side',
  )  # fmt: skip
  return parser


def _prepared(options: argparse.Namespace, root: pathlib.Path) -> str:
  """Does what is asked for, and says where it lies."""
  name, learns = options.name, options.vocabulary is not None
  if learns and not options.texts:
    raise ValueError('--vocabulary is learnt from texts: give --texts, too.')
  if not (options.texts or options.images or options.idx):
    return download(name, root)
  _check_new(root / name / _VERSION)
  learnt = ''
  if options.texts:
    source = sources.texts(options.texts)
    if learns:
      path = root / name / 'tokenizer.json'
      learnt = _learn_vocabulary(source, options.vocabulary, path)
  elif options.images:
    source = sources.images(options.images, options.size)
  else:
    source = sources.idx(options.idx)
  return write(name, root, source) + learnt


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
  builder = Prepared(data_dir=root, file_format=datasets.FORMAT)
  return _prepare(tfds, builder, name, root)


def download(name: str, root: pathlib.Path) -> str:
  """Downloads an official data set and writes it as array_record.

  Raises:
    ValueError: there is none of that name, or preparing it fails.
  """
  tfds = datasets.library()
  try:
    builder = tfds.builder(name, data_dir=root, file_format=datasets.FORMAT)
    return _prepare(tfds, builder, name, root)
  except Exception as error:  # The library and what it calls raise anything.
    reason = str(error).strip().split('\n')[0]
    raise ValueError(
        f'tensorflow-datasets cannot prepare {name!r} here'
        f' ({type(error).__name__}: {reason}). It needs a network; images need'
        ' TensorFlow, and c4 apache-beam, to be prepared (not to be read).'
        f' Where it can, this is the same: `tfds build {name} --file_format'
        f' {datasets.FORMAT} --data_dir {root}`.'
    ) from error


def _prepare(tfds: Any, builder: Any, name: str, root: pathlib.Path) -> str:
  builder.download_and_prepare(
      file_format=datasets.FORMAT,
      download_config=tfds.download.DownloadConfig(
          download_mode=tfds.GenerateMode.REUSE_DATASET_IF_EXISTS,
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
