"""The next token of a text."""

from collections.abc import Iterator
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train import config
from train import data
from train import models


class LanguageModeling:
  """A LLaMA on windows of text, scored in nats per token and bits per byte."""

  unit = 'tokens'
  embeddings = models.EMBEDDINGS

  def __init__(self, run: config.Config):
    """Reads the text of a configuration."""
    text = data.load(run.data)
    self._text = text
    self.description = of = text.description
    self.introduction = (
        f'{of["corpus"]}: {of["train_tokens"]:,} tokens to learn from,'
        f' {of["held_out_tokens"]:,} held out (sha256 {of["sha256"]})'
    )
    self.units_per_example = run.data.sequence_length
    self.init = functools.partial(models.init, run.model, text.vocab_size)
    self.matrices = models.matrix_dimension_numbers
    self.partition_specs = models.partition_specs
    self.train = text.train
    self.held_out = text.evaluation
    self.loss = models.make_loss(run.model, text.vocab_size)
    self._apply = models.make_apply(run.model, text.vocab_size)

  def example(self) -> jax.ShapeDtypeStruct:
    """A window of tokens, int32 [sequence_length + 1]."""
    return jax.ShapeDtypeStruct((self.units_per_example + 1,), np.int32)

  def start(self, params: Any) -> Any:
    """The initial parameters as they are."""
    return params

  def calibration(self, batch_size: int) -> Iterator[Any]:
    """None: the parameters are all there is."""
    del batch_size
    return iter(())

  def statistics(self, params: Any, batch: jax.Array) -> tuple[()]:
    """None."""
    del params, batch
    return ()

  def outputs(
      self, params: Any, statistics: Any, batch: jax.Array
  ) -> jax.Array:
    """The mean loss of each window, [rows, time + 1] -> [rows]."""
    del statistics
    losses = optax.softmax_cross_entropy_with_integer_labels(
        self._apply(params, batch[:, :-1]), batch[:, 1:]
    )
    return jnp.mean(losses, axis=1)

  def score(
      self, outputs: np.ndarray, held_out: np.ndarray
  ) -> dict[str, float]:
    """Nats per token, and bits per byte of text."""
    del held_out
    loss = float(np.mean(outputs, dtype=np.float64))
    bits = loss / math.log(2) / self._text.bytes_per_token
    return {'loss': loss, 'bits_per_byte': bits}
