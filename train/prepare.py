"""Makes data sets that `data.source` names: array_record below data.data_dir.

python -m train.prepare NAME [--data_dir DIR]       an official one, downloaded
python -m train.prepare NAME --texts PATTERN ...    texts; also a tokenizer
python -m train.prepare NAME --sentences FILE ...   labeled sentences or pairs
python -m train.prepare NAME --images FOLDER        FOLDER/CLASS/IMAGE
python -m train.prepare NAME --idx FOLDER           the files of (Fashion-)MNIST
"""

import dataclasses
import pathlib
import sys
from typing import Any

from train.config import command_line, exit_codes, section
from train.data import datasets, labeled, sources, tokenizers

_PROG = 'python -m train.prepare'
_VERSION = '1.0.0'


@dataclasses.dataclass(frozen=True)
class Options(command_line.Options):
  """Downloads the official data set of that name, or makes one of your files.

  Name your files with --texts, --sentences, --images or --idx. Without
  --held_out and --eval_fraction, a run holds out data.eval_fraction of the
  examples itself; data.stream needs one of these two options.
  """

  name: str
  """What data.source will call it."""
  data_dir: str = '~/tensorflow_datasets'
  """Folder of the data sets."""
  texts: tuple[str, ...] = ()
  """Files or patterns of UTF-8 texts, JSON lines and parquet, also compressed
  (.gz, .xz, .bz2, .zst)."""
  sentences: tuple[str, ...] = ()
  """Files or patterns of TSV (without quotes) or CSV, whose first line names
  the columns, JSON lines, or parquet."""
  images: str = ''
  """A folder with one folder per class, or with train/ and val/ (or test/) that
  hold them."""
  idx: str = ''
  """A folder with train-images-idx3-ubyte.gz and its three companions."""
  held_out: tuple[str, ...] = ()
  """texts, sentences: files or patterns of the part to evaluate on."""
  eval_fraction: float | None = None
  """texts, sentences: share that becomes the part to evaluate on."""
  text_field: str | None = None
  """texts: field of JSON and parquet records that holds the text, by default
  'text'; '' reads JSON as plain text."""
  vocabulary: int | None = None
  """texts: also learn a tokenizer of so many tokens: NAME/tokenizer.json."""
  columns: tuple[str, ...] = ()
  """sentences: one or two columns of sentences, then that of the label."""
  score: bool = False
  """sentences: labels are numbers to predict, not classes (fractions always
  are)."""
  size: int | None = None
  """images: scale and crop them to squares of so many pixels a side."""

  def _check(self) -> None:
    given = [
      x for x in ('texts', 'sentences', 'images', 'idx') if getattr(self, x)
    ]
    if len(given) > 1:
      raise ValueError(
        f'--{given[0]} and --{given[1]} are two data sets: leave one of them'
        ' out.'
      )
    texts_or_sentences = self.texts or self.sentences
    for fits, reader, names in (
      (self.texts, '--texts', ('vocabulary', 'text_field')),
      (self.sentences, '--sentences', ('columns', 'score')),
      (self.images, '--images', ('size',)),
      (
        texts_or_sentences,
        '--texts or --sentences',
        ('held_out', 'eval_fraction'),
      ),
    ):
      if not fits:
        self.only_for(reader, *names)
    self._at_least(1, 'size')
    if len(self.columns) not in (0, 2, 3):
      raise ValueError(
        '--columns must be SENTENCE LABEL or SENTENCE SENTENCE LABEL, got'
        f' {" ".join(self.columns)}.'
      )
    if self.eval_fraction is None:
      return
    if not 0 < self.eval_fraction < 1:
      raise ValueError(
        f'--eval_fraction must be between 0 and 1, got {self.eval_fraction}:'
        ' give the share to evaluate on, such as 0.05.'
      )
    if self.held_out:
      raise ValueError(
        '--held_out already names the part to evaluate on: leave out one of'
        ' --held_out and --eval_fraction.'
      )


def main(argv: list[str]) -> int:
  """Writes a data set; returns the exit code."""
  try:
    options, _ = command_line.read(argv, Options, _PROG)
    datasets.check_name(options.name)
    done = _prepared(options, pathlib.Path(options.data_dir).expanduser())
  except (exit_codes.UsageError, ValueError, OSError, ImportError) as error:
    return exit_codes.fail(error)
  print(done)
  return 0


def _prepared(options: Options, root: pathlib.Path) -> str:
  """Makes the data set and returns what to print about it."""
  name = options.name
  if not (options.texts or options.sentences or options.images or options.idx):
    return download(name, root)
  _check_new(root / name / _VERSION)
  evaluation = sources.Evaluation(
    options.held_out, options.eval_fraction or 0.0
  )
  learnt = ''
  if options.texts:
    field = 'text' if options.text_field is None else options.text_field
    source = sources.texts([*options.texts], field, evaluation)
    if options.vocabulary is not None:
      path = root / name / 'tokenizer.json'
      learnt = _learn_vocabulary(source, options.vocabulary, path)
  elif options.sentences:
    source = labeled.sentences(
      [*options.sentences],
      [*options.columns] or None,
      options.score,
      evaluation,
    )
  elif options.images:
    source = sources.images(options.images, options.size)
  else:
    source = sources.idx(options.idx)
  written = write(name, root, source) + learnt
  return '\n'.join((*map(_sentence, source.remarks), written))


def _sentence(remark: str) -> str:
  return f'{remark[0].upper()}{remark[1:]}.'


def _check_new(folder: pathlib.Path) -> None:
  """Raises if the folder of the new data set exists."""
  if folder.exists():
    raise ValueError(
      f'{folder} exists already: choose another name, or delete it to write it'
      ' again.'
    )


def _learn_vocabulary(
  source: sources.Source, size: int, path: pathlib.Path
) -> str:
  """Writes a tokenizer; returns what to print about it."""
  documents = (example['text'].decode() for example in source.splits['train']())
  path.parent.mkdir(parents=True, exist_ok=True)
  count = tokenizers.train(documents, size, str(path))
  return f'\n{count:,} tokens. Use them with --data.tokenizer {path}.'


def write(name: str, root: pathlib.Path, source: sources.Source) -> str:
  """Writes a data set; returns what to print about it."""
  tfds = datasets.library()
  base: Any = tfds.core.GeneratorBasedBuilder

  class Prepared(base, skip_registration=True):  # type: ignore[call-arg]
    """Examples of a source."""

    VERSION = tfds.core.Version(_VERSION)

    def _info(self) -> Any:
      features = tfds.features.FeaturesDict(source.features)
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {
        part: enumerate(part_of()) for part, part_of in source.splits.items()
      }

    def _generate_examples(self) -> None:
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
      f'{section.nearest(name, official)}: name one of its catalog, or say what'
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
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
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
  sys.exit(exit_codes.run(main))
