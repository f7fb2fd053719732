"""Data and model: the sections of a configuration on what is trained."""

import dataclasses
from typing import Literal

from train.config.section import Section

# What data.source can be other than the name of a data set.
BUILT_IN = ('python-stdlib', 'files', 'digits')
DType = Literal['float32', 'bfloat16', 'float16']


@dataclasses.dataclass(frozen=True)
class Data(Section):
  """Texts, sentences or images, and their processing."""

  source: str = 'python-stdlib'
  """'python-stdlib', the .py files of the standard library; 'files', the texts
  of data.files; 'digits', scikit-learn's images; or a data set below
  data.data_dir: c4/en, cifar10, fashion_mnist, glue/mrpc, or one that `python
  -m train.prepare` wrote."""
  data_dir: str = '~/tensorflow_datasets'
  """Folder of the data sets, in the layout of tensorflow-datasets."""
  files: tuple[str, ...] = ()
  """Paths or glob patterns, for source 'files': UTF-8 texts, JSON lines and
  parquet, also compressed (.gz, .xz, .bz2, .zst)."""
  text_field: str = 'text'
  """Field of JSON and parquet records in data.files and data.held_out that
  holds the text; '' reads JSON as plain text."""
  tokenizer: str = 'bytes'
  """'bytes', or the path of a SentencePiece .model or a Hugging Face
  tokenizer.json."""
  sequence_length: int = 256
  """Tokens per sequence."""
  max_bytes: int = 0
  """Text of a data set: maximum bytes per split, rounded down to whole
  documents. 0 means no limit; the data must then fit in memory."""
  stream: bool = False
  """Text of a data set: read documents as training needs them, for data sets
  that do not fit in memory. A sequence begins with a document and continues
  with the next ones; data.max_bytes then limits the held-out text only."""
  held_out: tuple[str, ...] = ()
  """Additional texts to evaluate on, each reported on its own: files (paths or
  patterns) or data sets."""
  crop: int = 0
  """Images: maximum random shift while training, in pixels."""
  flip: bool = False
  """Images: mirror half of them at random while training."""
  eval_fraction: float = 0.05
  """Share of the texts (by size, whole texts), images or sentences that is held
  out; data sets with a split for evaluation use that instead."""
  seed: int = 0
  """Seed of the order of the training examples, not of the held-out ones."""

  def _check(self) -> None:
    self._at_least(1, 'sequence_length')
    self._at_least(0, 'max_bytes', 'crop', 'seed')
    self._fraction('eval_fraction')
    if self.stream and self.source in BUILT_IN:
      raise ValueError(
        'data.stream reads data sets by name (`python -m train.prepare NAME'
        ' --texts PATTERN --eval_fraction 0.05` makes one of text files), got'
        f' source={self.source!r}.'
      )
    if bool(self.files) != (self.source == 'files'):
      raise ValueError(
        "data.files is needed with data.source 'files' and only there, got"
        f' source={self.source!r} and files={self.files!r}.'
      )


@dataclasses.dataclass(frozen=True)
class Model(Section):
  """What is trained."""

  name: Literal['llama', 'resnet8', 'resnet18', 'bert'] = 'llama'
  """A language model (RMSNorm, rotary positions, SwiGLU, no biases), a residual
  network with the stem for CIFAR for images, or BERT for labeled sentences
  (RoBERTa if model.pretrained is one)."""
  pretrained: str = ''
  """bert: folder with config.json and model.safetensors of Hugging Face, which
  determine all sizes below; '' starts from random parameters."""
  width: int = 128
  """Size of the residual stream (hidden size); for a ResNet the channels of the
  first stage, 64 in the papers."""
  layers: int = 4
  """llama, bert: number of transformer blocks."""
  heads: int = 4
  """llama, bert: number of attention heads. model.width must be a multiple of
  them, for llama of twice their number."""
  feed_forward: int = 344
  """llama, bert: inner size of the feed-forward block."""
  dropout: float = 0.0
  """bert: share of the activations that training drops at random; 0.1 in the
  published models."""
  dtype: DType = 'float32'
  """Type of activations and matrix products; parameters are float32."""
  scan: bool = False
  """llama: stack the parameters of all blocks, [layers, ...], and compile one
  block for all layers, which takes far less time. Compressors still see every
  layer separately."""
  remat: bool = False
  """llama: recompute each block in the backward pass, which takes more time and
  less memory; on a CPU it saves little memory."""

  def _check(self) -> None:
    self._at_least(1, 'width', 'layers', 'heads', 'feed_forward')
    self._fraction('dropout')
    self._below(1, 'dropout')
    if self.name == 'bert' and self.width % self.heads:
      raise ValueError(
        'model.width must be a multiple of model.heads, got'
        f' width={self.width}, heads={self.heads}.'
      )
    if self.name == 'llama' and self.width % (2 * self.heads):
      raise ValueError(
        'model.width must be a multiple of 2 * model.heads (rotary positions'
        f' pair up channels), got width={self.width}, heads={self.heads}.'
      )
