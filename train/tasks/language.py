"""The next token of a text."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config.schema import Config
from train.data import text as text_lib
from train.models import llama, llama_rules
from train.tasks.base import Task


class LanguageModeling(Task):
  """A LLaMA on windows of text, scored in nats per token and bits per byte."""

  unit = 'tokens'
  embeddings = llama_rules.EMBEDDINGS

  def __init__(self, config: Config, text: text_lib.TextData):
    self._text = text
    self.description = of = text.description
    learnt = next(x for x in ('train_tokens', 'train_documents') if x in of)
    held_out = [f'{of["held_out_tokens"]:,} held-out tokens']
    held_out += [f'{x.tokens:,} of {x.name}' for x in text.held_out[1:]]
    summary = (
      f'{of["corpus"]}: {of[learnt]:,} training {learnt.removeprefix("train_")}'
      f', {", ".join(held_out)} (sha256 {of["sha256"]})'
    )
    self.introduction = '\n'.join((summary, *text.remarks))
    self.units_per_example = config.data.sequence_length
    self.init = functools.partial(llama.init, config.model, text.vocab_size)
    self.matrices = llama_rules.matrix_dimension_numbers
    self.train = text.train
    self.loss = llama.make_loss(config.model, text.vocab_size)
    self._apply = llama.make_apply(config.model, text.vocab_size)

  def example(self) -> jax.ShapeDtypeStruct:
    """A window of tokens, int32 [sequence_length + 1]."""
    return jax.ShapeDtypeStruct((self.units_per_example + 1,), np.int32)

  def partition_specs(self, params: Any) -> Any:
    """Matrices over the axes fsdp and tensor."""
    return llama_rules.partition_specs(params)

  def held_out(self, count: int) -> dict[str, np.ndarray]:
    """So many windows of each held-out text, and which one they are of."""
    windows = [x.take(count) for x in self._text.held_out]
    part = np.repeat(np.arange(len(windows)), [*map(len, windows)])
    return {'windows': np.concatenate(windows), 'part': part.astype(np.int32)}

  def outputs(self, params: Any, statistics: Any, batch: Any) -> jax.Array:
    """The mean loss of each window, [rows, time + 1] -> [rows]."""
    del statistics
    windows = batch['windows']
    losses = optax.softmax_cross_entropy_with_integer_labels(
      self._apply(params, windows[:, :-1]), windows[:, 1:]
    )
    return jnp.mean(losses, axis=1)

  def score(self, outputs: np.ndarray, held_out: Any) -> dict[str, float]:
    """Nats per token and bits per byte, of further texts with their names."""
    found = {}
    for i, text in enumerate(self._text.held_out):
      loss = float(np.mean(outputs[held_out['part'] == i], dtype=np.float64))
      name = f'{text.name}_' if text.name else ''
      found[f'{name}loss'] = loss
      found[f'{name}bits_per_byte'] = loss / math.log(2) / text.bytes_per_token
    return found
