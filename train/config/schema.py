"""Every key of a run: its type, default and meaning.

A configuration is a tree of frozen dataclasses. Each section checks its own
values when it is built, so a `Config` that exists is a valid one. This module
does not import JAX, so a mistyped command fails at once.
"""

import dataclasses
import typing
from typing import Any, Literal

from train.config.machines import Distributed, Mesh
from train.config.section import Section
from train.config.subject import BUILT_IN, Data, DType, Model

MatrixMethod = Literal[
  'dense',
  'greedylore',
  'past_sketches',
  'powersgd',
  'range_finder',
  'tsr',
  'fixed_subspace',
  'random_subspace',
  'top_k',
  'random_k',
  'count_sketch',
  'chunk_top_k',
  'threshold_top_k',
  'quantize',
  'sign',
]
# Methods that are optimizers, too.
OptimizerMethod = Literal['tsr_adam', 'sketched_amsgrad', 'frugal', 'lordo']
OPTIMIZERS = typing.get_args(OptimizerMethod)
Method = MatrixMethod | OptimizerMethod
FactorDType = Literal['float32', 'bfloat16', 'float16', 'int8', 'int4', 'int2']

_WITHOUT_REFRESH = 'past_sketches', 'powersgd', 'range_finder'
_LOW_RANK = (
  *_WITHOUT_REFRESH,
  'greedylore',
  'tsr',
  'tsr_adam',
  'fixed_subspace',
  'random_subspace',
)
_SKETCHED = 'count_sketch', 'sketched_amsgrad'
# The keys of `Compression` that only some methods read.
METHODS_OF: dict[str, tuple[str, ...]] = {
  'rank': (*_LOW_RANK, 'lordo'),
  'update_interval': (
    *(x for x in _LOW_RANK if x not in _WITHOUT_REFRESH),
    'threshold_top_k',
    'frugal',
  ),
  'density': ('top_k', 'random_k', 'threshold_top_k', *_SKETCHED, 'frugal'),
  'slack': ('threshold_top_k',),
  'keep': ('chunk_top_k',),
  'chunk': ('chunk_top_k',),
  'transform': ('chunk_top_k',),
  'sketch_rows': _SKETCHED,
  'sketch_columns': _SKETCHED,
  'bits': ('quantize', 'chunk_top_k'),
  'indices': ('top_k',),
  'fresh': ('past_sketches',),
  'warm': ('range_finder',),
  'basis_size': ('greedylore',),
  'average': ('tsr', 'tsr_adam'),
  'rotate_moments': ('tsr_adam',),
  'scale': ('tsr_adam',),
  'sign_scale': ('frugal',),
  'payload_method': ('frugal', 'lordo'),
  'quasi_hyperbolic': ('lordo',),
  'renew_rounds': ('lordo',),
  'probes': ('greedylore', 'top_k'),
}


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
  """The optimizer that follows the compression."""

  name: str = 'adamw'
  """An optax factory that requires only a learning rate and whose updates need
  only gradients: adamw, sgd, lion, adafactor, ...; or muon, which is
  optax.contrib.muon for the matrices of the blocks and adamw for everything
  else."""
  learning_rate: float = 3e-3
  """Peak of the schedule; of muon, for the matrices of the blocks."""
  adam_learning_rate: float | None = None
  """muon: peak of the schedule for everything else. None is a tenth of
  optimizer.learning_rate: 1e-3 goes with a rate of 1e-2 for muon."""
  warmup_fraction: float = 0.1
  """Share of the steps in which the learning rate rises linearly from 0."""
  final_fraction: float = 0.1
  """Final value of the cosine schedule, as a share of the peak."""
  clip_norm: float = 1.0
  """Global norm to which the averaged gradient is clipped; 0 disables it."""
  weight_decay: float | None = None
  """Decay of matrices (norm gains are exempt): decoupled where the optax
  factory supports it (adamw, lion, muon), else added to the gradient (sgd,
  adam). None keeps the default of optax; for tsr_adam it is 0."""
  momentum: float | None = None
  """Momentum of sgd, muon and similar optimizers; None keeps the default of
  optax."""
  nesterov: bool | None = None
  """Nesterov momentum for sgd, muon and similar optimizers; None keeps the
  default of optax."""
  b1: float | None = None
  """First-moment decay of the Adam family; None keeps the default of optax."""
  b2: float | None = None
  """Second-moment decay of the Adam family; None keeps the default of optax."""
  eps: float | None = None
  """Added to the denominator in the Adam family; None keeps the default of
  optax."""

  def given(self, *names: str) -> dict[str, Any]:
    """Those of the named options that are set."""
    values = {name: getattr(self, name) for name in names}
    return {name: x for name, x in values.items() if x is not None}

  def _check(self) -> None:
    self._at_least(0, 'learning_rate', 'clip_norm', 'weight_decay', 'eps')
    self._at_least(0, 'adam_learning_rate')
    self._fraction('warmup_fraction', 'final_fraction', 'momentum', 'b1', 'b2')
    self._below(1, 'b1', 'b2')
    if self.name != 'muon':
      self.only_for('optimizer.name muon', 'adam_learning_rate')
      return
    self._below(1, 'momentum')
    if self.learning_rate == 0:
      self.only_for(
        'optimizer.learning_rate above 0, as both rates follow one schedule',
        'adam_learning_rate',
      )


@dataclasses.dataclass(frozen=True)
class Compression(Section):
  """How gradients are averaged over the workers."""

  method: Method = 'greedylore'
  """What is sent. 'dense' sends everything; the low-rank methods send some
  directions of every matrix, random_k, count_sketch and those that end in top_k
  some entries, quantize and sign all entries in a few bits. Four methods are
  optimizers, too, and need optimizer.name adamw: tsr_adam is Adam on the cores
  of tsr, without error feedback; sketched_amsgrad is AMSGrad on the entries of
  count_sketch; frugal is AdamW on some columns of each matrix and signs on the
  others; lordo takes local steps of a low-rank Adam."""
  rank: int = 16
  """Low-rank methods: directions sent per matrix and step. A lower rank sends
  less and approximates worse. lordo: directions in which there are moments."""
  update_interval: int = 200
  """Methods with a basis, and threshold_top_k: steps between refreshes of the
  basis or the threshold. A smaller interval follows the gradient more closely
  and sends more. frugal: steps until other columns are chosen."""
  density: float = 0.1
  """top_k, random_k, threshold_top_k, count_sketch, sketched_amsgrad: share of
  the entries that is sent. frugal: share of the columns that have moments."""
  slack: float = 1.5
  """threshold_top_k: how many times density may be sent between refreshes."""
  keep: int = 64
  """chunk_top_k: entries sent of each block of a matrix."""
  chunk: int = 64
  """chunk_top_k: largest side of a block."""
  transform: Literal['dct'] | None = None
  """chunk_top_k: 'dct' sends frequencies of a block, None its entries."""
  sketch_rows: int = 3
  """count_sketch, sketched_amsgrad: rows of the sketch, of which the median is
  taken."""
  sketch_columns: float = 1.0
  """count_sketch, sketched_amsgrad: buckets in a row per entry that is sent.
  Higher sends more and chooses better."""
  bits: Literal[1, 2, 4, 8, 16] = 8
  """Bits per entry: 2, 4 or 8 for quantize; for chunk_top_k also 1, signs, and
  16."""
  indices: Literal['shared', 'own'] = 'shared'
  """top_k: 'shared' sends columns that all workers agree on, 'own' the entries
  that each worker chooses."""
  fresh: float = 0.5
  """past_sketches: columns of the sketch as a share of the rank, above 0 and at
  most 1. Lower sends less and relies more on earlier steps."""
  warm: float = 0.0
  """range_finder: share of the directions that the next step reuses."""
  basis_size: int | None = None
  """greedylore: number of directions in the basis. A refresh then needs no
  dense step; None is all of them, from a dense step."""
  average: Literal['gradients', 'bases'] = 'gradients'
  """tsr, tsr_adam: what is averaged at a refresh; the paper averages
  'bases'."""
  rotate_moments: bool = False
  """tsr_adam: carry the moments over into new bases; the paper does not."""
  scale: float = 1.0
  """tsr_adam: factor on the updates of compressed parameters."""
  sign_scale: float = 1.0
  """frugal: factor on the updates by signs."""
  payload_method: MatrixMethod = 'dense'
  """frugal: how the columns with moments are sent. lordo: how the averaged
  movement of a round is sent."""
  quasi_hyperbolic: float = 0.9
  """lordo: weight of the low-rank step against the gradient of full rank."""
  renew_rounds: int = 1
  """lordo: rounds from one renewal of the basis to the next."""
  start_step: int = 0
  """Number of dense steps before compression begins."""
  probes: int = 4
  """greedylore, top_k: number of shared random probes that score the
  directions. For greedylore, 0 is the paper's independent probe per direction
  (slower, not better)."""
  error_feedback: bool = True
  """Add whatever was not sent to later steps; off only for ablations, and for
  frugal, whose paper has none."""
  error_decay: float = 1.0
  """Factor on the error before it is added to the next step. Lower forgets
  sooner. Papers that send few entries in rounds have 0.9 to 0.99."""
  min_compression_rate: float = 1.0
  """A matrix is sent dense unless compression shrinks it by more than this
  factor."""
  embeddings: bool = False
  """Also compress the token embedding and the output head."""
  embedding_method: MatrixMethod | None = None
  """The method for embedding and head; None is compression.method."""
  embedding_rank: int | None = None
  """The rank for embedding and head; None is compression.rank."""
  embedding_update_interval: int | None = None
  """The update interval for embedding and head; None is
  compression.update_interval."""
  error_dtype: DType | None = None
  """Type in which the errors are stored; None is float32."""
  factor_dtype: FactorDType | None = None
  """Type of compressed messages; None is the type of the gradients."""
  dense_dtype: FactorDType | None = None
  """Type of everything else that is sent: dense steps, refreshes, dense leaves;
  None is the type of the gradients."""
  stagger: bool = False
  """Refresh at most one basis per step instead of all in the same step, which
  sends as much as a dense step."""
  seed: int = 0
  """Seed of the random probes."""

  def _check(self) -> None:
    self._at_least(1, 'rank', 'update_interval', 'basis_size')
    self._at_least(1, 'slack', 'keep', 'chunk')
    self._at_least(1, 'embedding_rank', 'embedding_update_interval')
    self._at_least(1, 'sketch_rows', 'renew_rounds')
    self._at_least(0, 'start_step', 'probes', 'min_compression_rate', 'scale')
    self._at_least(0, 'seed')
    self._above(0, 'sketch_columns', 'fresh')
    self._fraction('density', 'fresh', 'warm', 'error_decay')
    self._fraction('quasi_hyperbolic')
    methods = self.method, self.embedding_method
    if 'quantize' in methods and self.bits not in (2, 4, 8):
      raise ValueError(
        f'compression.bits must be 2, 4 or 8 for quantize, got {self.bits}.'
      )

  def unread(self) -> list[str]:
    """Keys that were changed from their default and that no method here reads.

    They are allowed, because a study passes one section to several methods.
    """
    methods = {self.method, self.embedding_method}
    if self.method in METHODS_OF['payload_method']:
      methods.add(self.payload_method)
    defaults = Compression.__dataclass_fields__
    return [
      key
      for key, readers in METHODS_OF.items()
      if not methods & {*readers}
      and getattr(self, key) != defaults[key].default
    ]


@dataclasses.dataclass(frozen=True)
class Local(Section):
  """Rounds of local steps: when something is sent."""

  every: int = 1
  """Local steps that each worker takes in a round; 1 sends in every step.
  A higher number sends less and lets the workers move further apart. The last
  step of a run ends a round."""
  qsr_alpha: float | None = None
  """Longer rounds at lower learning rates: (qsr_alpha / learning rate)^2 steps,
  but at least local.every. None keeps local.every."""
  selsync_threshold: float | None = None
  """A round ends when the smoothed squared gradient norm of a worker has
  changed by more than this share, and after local.every steps at the
  latest. This sends 4 bytes per step. Higher sends less. None keeps
  local.every."""
  start_step: int = 0
  """Number of first steps in which every step is a round."""
  outer_learning_rate: float = 1.0
  """Factor on the averaged change in the parameters. The defaults, 1 without
  momentum, are plain averaging."""
  outer_momentum: float = 0.0
  """Momentum over rounds."""
  outer_nesterov: bool = True
  """Nesterov momentum over rounds."""
  fragments: int = 1
  """Groups of parameters that are averaged at different steps of a round, so
  that no step sends more than about 1 / fragments of a round."""
  delay: int = 0
  """Steps between the end of a round and the update of the global parameters,
  below local.every."""
  average_moments: int = 0
  """Rounds after which the state of the optimizer is averaged over the workers,
  too, without compression; 0 never does."""

  @property
  def is_on(self) -> bool:
    """Whether there are rounds of several steps."""
    rules = self.qsr_alpha, self.selsync_threshold
    return self.every > 1 or any(x is not None for x in rules)

  def _check(self) -> None:
    self._at_least(1, 'every', 'fragments')
    self._at_least(0, 'start_step', 'outer_learning_rate')
    self._at_least(0, 'delay', 'average_moments')
    self._above(0, 'qsr_alpha', 'selsync_threshold')
    self._fraction('outer_momentum')
    self._below(1, 'outer_momentum')
    if not self.is_on:
      self.only_for(
        'local.every above 1 or a rule for it',
        'start_step',
        'outer_learning_rate',
        'outer_momentum',
        'outer_nesterov',
        'selsync_threshold',
        'fragments',
        'delay',
        'average_moments',
      )
    if not self.outer_momentum:
      self.only_for('local.outer_momentum above 0', 'outer_nesterov')
    if self.selsync_threshold is not None and self.every == 1:
      raise ValueError(
        'local.selsync_threshold needs a longest round, local.every, of several'
        ' steps, got 1: a round would end with every step anyway.'
      )
    if self.qsr_alpha is not None and self.selsync_threshold is not None:
      raise ValueError(
        'local.qsr_alpha and local.selsync_threshold are two rules for the'
        ' length of a round: set one of them.'
      )


@dataclasses.dataclass(frozen=True)
class Evaluation(Section):
  """How the held-out examples are scored."""

  every: int = 100
  """Steps between evaluations, in addition to the one after the last step; 0 is
  only at the end."""
  sequences: int = 512
  """Held-out sequences, or images, per evaluation, always the same ones; 0 is
  all of them."""

  def _check(self) -> None:
    self._at_least(0, 'every', 'sequences')


@dataclasses.dataclass(frozen=True)
class Checkpoint(Section):
  """When the state that a run resumes from is saved."""

  every: int = 100
  """Steps between checkpoints, in addition to the one after the last step; 0 is
  only at the end."""
  keep: int = 2
  """Number of checkpoints kept on disk."""
  local: str | None = None
  """A folder on a disk of this host, for hosts that share none. Each process
  saves its part of every checkpoint there, of which at least two are kept, and
  only process 0 uses the work folder. train.launch gives each of its processes
  a folder in it; otherwise every process needs its own."""

  def _check(self) -> None:
    self._at_least(0, 'every')
    self._at_least(1, 'keep')


@dataclasses.dataclass(frozen=True)
class Agreement(Section):
  """When the workers' parameters are compared, bit by bit."""

  every: int = 100
  """Steps between comparisons, in addition to one before every checkpoint; with
  local steps, at the end of the round. 4 bytes per leaf are sent for it. 0 is
  only before checkpoints."""

  def _check(self) -> None:
    self._at_least(0, 'every')


@dataclasses.dataclass(frozen=True)
class Log(Section):
  """What a run writes while it trains."""

  every: int = 10
  """Steps between lines of metrics.jsonl."""
  tensorboard: bool = True
  """Also write TensorBoard event files."""
  diagnostics: bool = True
  """Also write which share of the gradients' energy was sent, how large the
  errors are, and how far a refresh turned the basis, of all leaves and of each;
  needs error feedback, and sends 12 bytes per compressed leaf and step."""

  def _check(self) -> None:
    self._at_least(1, 'every')


@dataclasses.dataclass(frozen=True)
class Config(Section):
  """One run."""

  steps: int = 300
  """Optimizer steps."""
  batch_size: int = 16
  """Sequences, or images, per step, summed over all workers."""
  accumulate_steps: int = 1
  """Micro-batches that a worker accumulates before it sends anything."""
  seed: int = 0
  """Seed of the initial parameters."""
  workdir: str = ''
  """Folder for everything the run writes; '' is runs/ and the name of the
  configuration below configs/: runs/greedylore/llama_60m."""
  data: Data = Data()
  model: Model = Model()
  optimizer: Optimizer = Optimizer()
  compression: Compression = Compression()
  local: Local = Local()
  mesh: Mesh = Mesh()
  distributed: Distributed = Distributed()
  evaluation: Evaluation = Evaluation()
  checkpoint: Checkpoint = Checkpoint()
  agreement: Agreement = Agreement()
  log: Log = Log()

  def _check(self) -> None:
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
    is_tsr_adam, is_lordo = sent.method == 'tsr_adam', sent.method == 'lordo'
    is_frugal, steps = sent.method == 'frugal', sent.method in OPTIMIZERS
    texts = "model.name 'llama' or 'bert'"
    others = f'a compression.method other than {sent.method}'

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
    dtypes = 'error_dtype', 'factor_dtype', 'dense_dtype'
    has_rules = not steps or is_lordo
    only(sent, has_rules, others, 'embedding_method')
    only(sent, not (is_tsr_adam or is_frugal), others, *dtypes, 'stagger')
    knobs = 'embedding_rank', 'embedding_update_interval', 'error_decay'
    only(sent, not is_frugal, others, *knobs)
    read = not is_tsr_adam or not sent.error_feedback
    only(sent, read, others, 'error_feedback')
    only(self.optimizer, not steps, others, 'momentum', 'nesterov')
    only_compress = 'a compression.method that only compresses, such as tsr'
    rounds = 'every', 'qsr_alpha', 'selsync_threshold'
    only(self.local, has_rules, only_compress, *rounds)
    if is_lordo:
      self._check_lordo()

  def _check_lordo(self) -> None:
    """Raises unless there are rounds, and of the kinds that lordo has."""
    if not self.local.is_on:
      raise ValueError(
        'compression.method lordo takes rounds of local steps: set local.every'
        ' above 1, got 1.'
      )
    others = 'a compression.method other than lordo'
    own = 'selsync_threshold', 'fragments', 'delay', 'average_moments'
    self.local.only_for(others, *own)
