"""The class of an image."""

from collections.abc import Iterator
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.config.schema import Config
from train.data import images
from train.models import resnet
from train.tasks.base import Task

# Training batches whose statistics stand for those of all of them.
_CALIBRATION_BATCHES = 16


class ImageClassification(Task):
  """A ResNet on labeled images, scored by cross-entropy and accuracy."""

  embeddings = resnet.ENDS

  def __init__(self, config: Config):
    """Opens the images of a configuration."""
    self._images = images.load(config.data)
    self.description = of = self._images.description
    size = ' x '.join(map(str, self._images.shape))
    self.introduction = (
      f'{of["corpus"]}: {of["train_images"]:,} training images of {size},'
      f' {of["held_out_images"]:,} held-out, {of["classes"]} classes'
      f' (sha256 {of["sha256"]})'
    )
    network = resnet.Network(
      config.model, self._images.shape[2], self._images.classes
    )
    self._network = network
    self.init = network.init
    self.matrices = network.matrices
    self.train = self._images.train
    self.held_out = self._images.evaluation

  def example(self) -> dict[str, jax.ShapeDtypeStruct]:
    """An image and its label."""
    return {
      'image': jax.ShapeDtypeStruct(self._images.shape, np.uint8),
      'label': jax.ShapeDtypeStruct((), np.int32),
    }

  def loss(self, params: Any, batch: Any) -> jax.Array:
    """Mean cross-entropy, with the batch norms' statistics of this batch."""
    logits = self._network.logits(params, batch['image'])
    return jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    )

  def calibration(self, batch_size: int) -> Iterator[Any]:
    """The first batches of training."""
    batches = self.train(batch_size, jax.process_index(), jax.process_count())
    return itertools.islice(batches, _CALIBRATION_BATCHES)

  def statistics(self, params: Any, batch: Any) -> Any:
    """Of the batch norms."""
    return self._network.statistics(params, batch['image'])

  def outputs(self, params: Any, statistics: Any, batch: Any) -> jax.Array:
    """Logits, [rows, classes]."""
    return self._network.predict(params, statistics, batch['image'])

  def score(self, outputs: np.ndarray, held_out: Any) -> dict[str, float]:
    """Mean cross-entropy in nats, and the share of labels that are right."""
    logits = outputs.astype(np.float64)
    logits -= np.max(logits, axis=1, keepdims=True)
    right = np.take_along_axis(logits, held_out['label'][:, None], axis=1)[:, 0]
    losses = np.log(np.sum(np.exp(logits), axis=1)) - right
    accuracy = np.mean(np.argmax(outputs, axis=1) == held_out['label'])
    return {'loss': float(np.mean(losses)), 'accuracy': float(accuracy)}
