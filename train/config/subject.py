"""What is learnt: the sections of a configuration for data and model."""

import dataclasses
from typing import Literal

from train.config.section import Section

# What data.source can be besides the name of a data set.
BUILT_IN = ('python-stdlib', 'files', 'digits')
DType = Literal['float32', 'bfloat16', 'float16']


@dataclasses.dataclass(frozen=True)
class Data(Section):
  """Where texts, sentences or images come from and what they become."""

  source: str = 'python-stdlib'
  """'python-stdlib', its own .py sources; 'files', the texts of data.files;
  'digits', scikit-learn's images; or a data set below data.data_dir: c4/en,
  cifar10, fashion_mnist, glue/mrpc, or what `python -m train.prepare` wrote."""
  data_dir: str = '~/tensorflow_datasets'
  """Folder of the data sets of tensorflow-datasets."""
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
  """Tokens of context per sequence."""
  max_bytes: int = 0
  """Text of a data set: so many bytes of each part at most, whole documents; 0
  is all, which has to fit into memory."""
  stream: bool = False
  """Text of a data set: read documents when their turn comes, for those that do
  not fit into memory. A sequence begins with a document and goes on with those
  behind it; data.max_bytes is for what is held out."""
  held_out: tuple[str, ...] = ()
  """Texts to score on besides, each with its own numbers: files (a path or
  pattern) or data sets."""
  crop: int = 0
  """Images: pixels by which they are shifted at most while training."""
  flip: bool = False
  """Images: mirror half of them while training."""
  eval_fraction: float = 0.05
  """Share of the texts (by size, whole texts), images or sentences that is held
  out; data sets with a part for it keep to that."""
  seed: int = 0
  """Order of the training examples, not of the held-out ones."""

  def _check(self):
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
  network with the stem of CIFAR for images, or BERT (or RoBERTa, as what is
  pre-trained says) for labelled sentences."""
  pretrained: str = ''
  """bert: folder with config.json and model.safetensors of Hugging Face, which
  set all sizes below; '' begins at random."""
  width: int = 128
  """Size of the residual stream (hidden size); channels of a ResNet's first
  stage, 64 in the papers."""
  layers: int = 4
  """llama, bert: number of transformer blocks."""
  heads: int = 4
  """llama, bert: attention heads; they divide the width, of a llama into even
  parts."""
  feed_forward: int = 344
  """llama, bert: inner size of the feed-forward block."""
  dropout: float = 0.0
  """bert: share of the activations that is left out at random in training, 0.1
  for the published ones."""
  dtype: DType = 'float32'
  """Type of activations and matrix products; parameters stay float32."""
  scan: bool = False
  """llama: stack the blocks' parameters, [layers, ...], and compile one block
  for all layers: far less time to compile, and a compressor sees each layer by
  itself as before."""
  remat: bool = False
  """llama: recompute each block in the backward pass: more time and less
  memory, of which XLA saves little on a CPU."""

  def _check(self):
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
