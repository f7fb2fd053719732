"""Every knob of a run, its type, default and meaning.

A configuration is a tree of frozen dataclasses. Each section checks its own
values when it is built, so a `Config` that exists is a valid one. This module
imports nothing heavy: a typing error in a command costs no JAX start-up.
"""

import dataclasses
from typing import Any
from typing import Literal

from train.config.machines import Distributed
from train.config.machines import Mesh
from train.config.section import Section
from train.config.subject import BUILT_IN
from train.config.subject import Data
from train.config.subject import DType
from train.config.subject import Model

MatrixMethod = Literal[
  'dense',
  'greedylore',
  'powersgd',
  'range_finder',
  'tsr',
  'fixed_subspace',
  'random_subspace',
  'top_k',
  'random_k',
  'quantize',
  'sign',
]
Method = MatrixMethod | Literal['tsr_adam']

_LOW_RANK = (
  'greedylore',
  'powersgd',
  'range_finder',
  'tsr',
  'tsr_adam',
  'fixed_subspace',
  'random_subspace',
)
# The keys of `Compression` that only some methods read.
METHODS_OF: dict[str, tuple[str, ...]] = {
  'rank': _LOW_RANK,
  'update_interval': tuple(
    x for x in _LOW_RANK if x not in ('powersgd', 'range_finder')
  ),
  'density': ('top_k', 'random_k'),
  'bits': ('quantize',),
  'indices': ('top_k',),
  'warm': ('range_finder',),
  'basis_size': ('greedylore',),
  'average': ('tsr', 'tsr_adam'),
  'rotate_moments': ('tsr_adam',),
  'scale': ('tsr_adam',),
  'probes': ('greedylore', 'top_k'),
}


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
  """The optimizer behind the compression: one that optax has by name."""

  name: str = 'adamw'
  """A factory of optax that takes a learning rate and needs nothing else, and
  whose updates need gradients only: adamw, sgd, lion, adafactor, ..."""
  learning_rate: float = 3e-3
  """Peak of the schedule."""
  warmup_fraction: float = 0.1
  """Share of the steps in which the rate rises linearly from 0."""
  final_fraction: float = 0.1
  """Where the cosine ends, as a share of the peak."""
  clip_norm: float = 1.0
  """Global norm to which the averaged gradient is clipped; 0 is off."""
  weight_decay: float | None = None
  """Decay of matrices (norm gains are exempt): decoupled where optax's factory
  has it (adamw, lion), else added to the gradient (sgd, adam). Here and below:
  None leaves optax's own default, which for tsr_adam is 0."""
  momentum: float | None = None
  """For sgd and its like."""
  nesterov: bool | None = None
  """For sgd and its like."""
  b1: float | None = None
  """First-moment decay, for the Adam family."""
  b2: float | None = None
  """Second-moment decay, for the Adam family."""
  eps: float | None = None
  """Denominator's floor, for the Adam family."""

  def given(self, *names: str) -> dict[str, Any]:
    """Those of the named options that are set."""
    values = {name: getattr(self, name) for name in names}
    return {name: x for name, x in values.items() if x is not None}

  def _check(self):
    self._at_least(0, 'learning_rate', 'clip_norm', 'weight_decay', 'eps')
    self._fraction('warmup_fraction', 'final_fraction', 'momentum', 'b1', 'b2')
    self._below(1, 'b1', 'b2')


@dataclasses.dataclass(frozen=True)
class Compression(Section):
  """How gradients are averaged over the workers."""

  method: Method = 'greedylore'
  """'dense' sends everything, the low-rank methods some directions of every
  matrix, top_k and random_k some numbers, quantize and sign all in a few
  bits; tsr_adam is Adam on the cores of tsr, without error feedback."""
  rank: int = 16
  """Low-rank methods: directions sent per matrix and step; lower sends less and
  errs more."""
  update_interval: int = 200
  """Methods with a basis: steps from one refresh of it to the next; lower
  follows the gradient more closely and sends more."""
  density: float = 0.1
  """top_k and random_k: share of the numbers that is sent."""
  bits: Literal[2, 4, 8] = 8
  """quantize: bits of a number."""
  indices: Literal['shared', 'own'] = 'shared'
  """top_k: columns that all workers agree on, or each worker's own entries."""
  warm: float = 0.0
  """range_finder: share of its directions that continue from the last step."""
  basis_size: int | None = None
  """greedylore: directions in a basis that is found without a dense step; None
  is all, by a dense one."""
  average: Literal['gradients', 'bases'] = 'gradients'
  """tsr, tsr_adam: what is averaged at a refresh; 'bases' is the paper's
  way."""
  rotate_moments: bool = False
  """tsr_adam: carry the moments into new bases; the paper does not."""
  scale: float = 1.0
  """tsr_adam: factor of the steps of compressed parameters."""
  start_step: int = 0
  """Dense steps before compression begins."""
  probes: int = 4
  """greedylore, top_k: shared random probes that score the
  directions; for greedylore 0 is the paper's independent probe per direction
  (slower, no better)."""
  error_feedback: bool = True
  """Add what was left out of a message to later ones; off only for
  ablations."""
  min_compression_rate: float = 1.0
  """A matrix is left dense unless it shrinks by more than this factor."""
  embeddings: bool = False
  """Compress the token embedding and the output head too."""
  embedding_method: MatrixMethod | None = None
  """The method for embedding and head; this and the next two: None is as for
  the rest."""
  embedding_rank: int | None = None
  """The rank for embedding and head."""
  embedding_update_interval: int | None = None
  """The update interval for embedding and head."""
  error_dtype: DType | None = None
  """Type in which the errors are kept; None is float32."""
  factor_dtype: DType | Literal['int8'] | None = None
  """Type in which compressed messages travel; None is the gradients' own."""
  stagger: bool = False
  """Refresh the bases one after the other, at most one in a step, rather than
  all in one step, which then sends as much as a dense one."""
  seed: int = 0
  """Of the probes."""

  def _check(self):
    self._at_least(1, 'rank', 'update_interval', 'basis_size')
    self._at_least(1, 'embedding_rank', 'embedding_update_interval')
    self._at_least(0, 'start_step', 'probes', 'min_compression_rate', 'scale')
    self._at_least(0, 'seed')
    self._fraction('density', 'warm')

  def unread(self) -> list[str]:
    """Keys that were changed from their default and that no method here reads.

    They are allowed, because a study passes one section to several methods.
    """
    methods = {self.method, self.embedding_method}
    defaults = Compression.__dataclass_fields__
    return [
      key
      for key, readers in METHODS_OF.items()
      if not methods & {*readers}
      and getattr(self, key) != defaults[key].default
    ]


@dataclasses.dataclass(frozen=True)
class Evaluation(Section):
  """Score on what is held out."""

  every: int = 100
  """Steps between evaluations (one always follows the last step); 0 is only
  at the end."""
  sequences: int = 512
  """Held-out sequences, or images, per evaluation, always the same ones; 0 is
  all there are."""

  def _check(self):
    self._at_least(0, 'every', 'sequences')


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
  """What a run continues from when it is started again."""

  every: int = 100
  """Steps between checkpoints (one always follows the last step); 0 is only
  at the end."""
  keep: int = 2
  """How many of them stay on disk."""

  def _check(self):
    self._at_least(0, 'every')
    self._at_least(1, 'keep')


@dataclasses.dataclass(frozen=True)
class Log(Section):
  """What is written while the run goes on."""

  every: int = 10
  """Steps between lines of metrics.jsonl."""
  tensorboard: bool = True
  """Also write TensorBoard event files."""
  diagnostics: bool = True
  """Also write how much of the gradients' energy was sent, how large what is
  kept has become, and how far a refresh turned the basis; needs error
  feedback."""

  def _check(self):
    self._at_least(1, 'every')


@dataclasses.dataclass(frozen=True)
class Config(Section):
  """One run."""

  steps: int = 300
  """Optimizer steps."""
  batch_size: int = 16
  """Sequences, or images, per step, over all workers."""
  accumulate_steps: int = 1
  """Micro-batches that a worker adds up before it sends anything."""
  seed: int = 0
  """Of the initial parameters."""
  workdir: str = ''
  """Folder for everything the run writes; '' is runs/ and the place of the
  configuration below configs/: runs/greedylore/llama_60m."""
  data: Data = Data()
  model: Model = Model()
  optimizer: Optimizer = Optimizer()
  compression: Compression = Compression()
  mesh: Mesh = Mesh()
  distributed: Distributed = Distributed()
  evaluation: Evaluation = Evaluation()
  checkpoint: Checkpoint = Checkpoint()
  log: Log = Log()

  def _check(self):
    self._at_least(1, 'steps', 'batch_size', 'accumulate_steps')
    self._at_least(0, 'seed')
    self._check_is_read()

  def _check_is_read(self) -> None:
    """Raises for a key that this run does not read and that is not the default.

    Keys of compression methods are an exception, see `Compression.unread`.
    """
    data, model, sent = self.data, self.model, self.compression
    is_llama, is_bert = model.name == 'llama', model.name == 'bert'
    is_image = not is_llama and not is_bert
    by_name = data.source not in BUILT_IN
    is_tsr_adam = sent.method == 'tsr_adam'
    texts = "model.name 'llama' or 'bert'"
    others = 'a compression.method other than tsr_adam'

    def only(section: Section, is_read: Any, reader: str, *keys: str) -> None:
      if not is_read:
        section.only_for(reader, *keys)

    only(data, is_llama, "model.name 'llama'", 'held_out', 'stream')
    only(data, not is_image, texts, 'tokenizer', 'sequence_length')
    files = is_llama and (data.files or data.held_out)
    only(data, files, 'data.files or data.held_out', 'text_field')
    only(data, is_image, 'images', 'crop', 'flip')
    sets = is_llama and (by_name or data.held_out)
    only(data, sets, 'data sets of texts by name', 'max_bytes')
    only(data, by_name or data.held_out, 'data sets by name', 'data_dir')
    own = 'data without a held-out part of its own'
    only(data, not data.stream, own, 'eval_fraction')
    only(model, is_bert, "model.name 'bert'", 'dropout', 'pretrained')
    only(model, is_llama, "model.name 'llama'", 'scan', 'remat')
    sizes = 'layers', 'heads', 'feed_forward'
    only(model, not is_image, texts, *sizes)
    own = 'a model without model.pretrained'
    only(model, not model.pretrained, own, 'width', *sizes)
    only(
      sent,
      sent.embeddings,
      'compression.embeddings True',
      'embedding_method',
      'embedding_rank',
      'embedding_update_interval',
    )
    dtypes = 'error_dtype', 'factor_dtype'
    only(sent, not is_tsr_adam, others, 'embedding_method', *dtypes, 'stagger')
    read = not is_tsr_adam or not sent.error_feedback
    only(sent, read, others, 'error_feedback')
    only(self.optimizer, not is_tsr_adam, others, 'momentum', 'nesterov')
