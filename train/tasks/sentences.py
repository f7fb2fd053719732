"""The class of a sentence or a pair of them, or a score: GLUE and its like."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config.schema import Config
from train.data import sentences
from train.models import bert, pretrained
from train.tasks.base import Task

# What GLUE reports; of all others the accuracy, of scores both correlations.
_REPORTED = {
  'glue/cola': ('matthews',),
  'glue/mrpc': ('accuracy', 'f1'),
  'glue/qqp': ('accuracy', 'f1'),
}


class SentenceClassification(Task):
  """A BERT or RoBERTa on labeled sentences, with the metrics of GLUE."""

  embeddings = bert.ENDS

  def __init__(self, config: Config):
    """Reads the sentences, and what is pre-trained, of a configuration."""
    self._data = sentences.load(config.data)
    self._pretrained = None
    if config.model.pretrained:
      self._pretrained = pretrained.Pretrained(
        config.model.pretrained, config.model.dtype
      )
    network = bert.Network(self._sizes(config), max(self._data.classes, 1))
    self._network, self._dropout = network, config.model.dropout
    if self._pretrained:
      self._pretrained.check(jax.eval_shape(lambda: network.init(0)))
    name = self._pretrained.name if self._pretrained else 'none'
    self.description = of = self._data.description | {'pretrained': name}
    if not of['classes']:
      self.loss_unit = 'squared error'
    goal = f'{of["classes"]} classes' if of['classes'] else 'a score'
    self.introduction = (
      f'{of["corpus"]}: {of["train_examples"]:,} training examples,'
      f' {of["held_out_examples"]:,} held-out, {goal} (sha256'
      f' {of["sha256"]}); pre-trained: {name}'
    )
    self.init = network.init
    self.matrices = network.matrices
    self.train = self._data.train
    self.held_out = self._data.evaluation

  def _sizes(self, config: Config) -> bert.Sizes:
    """Of what is pre-trained, or as configured.

    Raises:
      ValueError: the data do not fit what is pre-trained.
    """
    data, model = self._data, config.model
    length = config.data.sequence_length
    if self._pretrained is None:
      return bert.Sizes(
        data.vocab_size,
        model.width,
        model.layers,
        model.heads,
        model.feed_forward,
        length,
        dtype=model.dtype,
      )
    sizes, name = self._pretrained.sizes, self._pretrained.name
    if length > sizes.positions - sizes.first_position:
      raise ValueError(
        f'{name} takes sequences of up to'
        f' {sizes.positions - sizes.first_position} tokens, got'
        f' data.sequence_length={length}.'
      )
    segments = 1 + max(
      int(x['segments'].max()) for x in (data.training, data.held_out)
    )
    if data.vocab_size > sizes.vocab_size or segments > sizes.segments:
      raise ValueError(
        f'{name} knows {sizes.vocab_size} tokens and {sizes.segments} kinds'
        f' of sentences, but data.tokenizer makes {data.vocab_size} and'
        f' {segments}: take the tokenizer.json that belongs to it.'
      )
    return sizes

  def example(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Tokens, segments, their number, a label, and noise for dropout."""
    return {
      key: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
      for key, x in self._data.held_out.items()
    } | {'noise': jax.ShapeDtypeStruct((), np.uint32)}

  def start(self, params: Any) -> Any:
    """With what is pre-trained in its place."""
    return self._pretrained.into(params) if self._pretrained else params

  def loss(self, params: Any, batch: Any) -> jax.Array:
    """Mean cross-entropy, or mean squared error of a score."""
    outputs = self._network.outputs(params, batch, self._dropout)
    label = batch['label']
    if not self._data.classes:
      return jnp.mean((outputs[:, 0] - label) ** 2)
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(outputs, label)
    )

  def outputs(self, params: Any, statistics: Any, batch: Any) -> jax.Array:
    """Logits, [rows, classes], or scores, [rows, 1]."""
    del statistics
    return self._network.outputs(params, batch)

  def score(self, outputs: np.ndarray, held_out: Any) -> dict[str, float]:
    """The mean loss, and what GLUE reports of this data set."""
    outputs, label = outputs.astype(np.float64), held_out['label']
    if not self._data.classes:
      return _of_scores(outputs[:, 0], label)
    name = '/'.join(self.description['corpus'].split('/')[:2])
    return _of_classes(outputs, label, _REPORTED.get(name, ('accuracy',)))


def _of_scores(scores: np.ndarray, label: np.ndarray) -> dict[str, float]:
  """Mean squared error and correlations; those of a constant are 0."""
  from scipy import stats

  found = {'loss': float(np.mean((scores - label) ** 2))}
  constant = np.ptp(scores) == 0 or np.ptp(label) == 0
  for name, of in (('pearson', stats.pearsonr), ('spearman', stats.spearmanr)):
    found[name] = 0.0 if constant else float(of(scores, label).statistic)
  return found


def _of_classes(
  logits: np.ndarray, label: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
  """Mean cross-entropy in nats and the named metrics."""
  from scipy import special
  from sklearn import metrics

  losses = -np.take_along_axis(
    special.log_softmax(logits, axis=1), label[:, None], axis=1
  )
  guess = np.argmax(logits, axis=1)
  known = {
    'accuracy': metrics.accuracy_score,
    'f1': lambda label, guess: metrics.f1_score(
      label, guess, zero_division=0.0
    ),
    'matthews': metrics.matthews_corrcoef,
  }
  found = {'loss': float(np.mean(losses))}
  return found | {name: float(known[name](label, guess)) for name in names}
