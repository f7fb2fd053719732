"""What the trainer asks of a task: data, a model, a loss and a score."""

from collections.abc import Iterator
from typing import Any
from typing import Protocol

import jax
import numpy as np

Params = Any
Batch = Any
"""An array or a dict of arrays, all with a leading axis of examples."""


class Batches(Protocol):
  """Endless batches that can go on where they were."""

  def __next__(self) -> Batch:
    """The next one."""

  def get_state(self) -> dict[str, Any]:
    """Where it is, fit for JSON."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from there."""


class Task(Protocol):
  """A data set, a model and what counts.

  All functions of parameters are pure and can be traced.
  """

  description: dict[str, Any]
  """What the data are, fit for JSON. Results compare only between runs where
  all of it is equal."""
  introduction: str
  """The same for people, in one line; a line for each remark follows."""
  unit: str
  """What speed is counted in: 'tokens' or 'examples'."""
  units_per_example: int
  """How many of these an example has."""
  embeddings: str
  """A pattern of the paths of parameters that `compression.embeddings` is
  about: token embedding and head, stem and classifier."""

  def __hash__(self) -> int:
    """Of its identity."""

  def init(self, seed: int) -> Params:
    """Initial parameters; equal seeds give equal ones."""

  def start(self, params: Params) -> Params:
    """What training starts from, given initial parameters on their devices."""

  def matrices(self, params: Params, embeddings: bool) -> Any:
    """Dimension numbers of `params`, see `gl.compress_gradients`."""

  def partition_specs(self, params: Params) -> Any:
    """How parameters lie spread over the devices of a worker."""

  def loss(self, params: Params, batch: Batch) -> jax.Array:
    """The mean training loss of a batch: nats, of scores the squared error."""

  def example(self) -> Batch:
    """Shape and type of one example of a batch, `jax.ShapeDtypeStruct`s."""

  def train(
    self, batch_size: int, process_index: int, process_count: int
  ) -> Batches:
    """Training batches of this process."""

  def held_out(self, count: int) -> Batch:
    """So many held-out examples, always the same; 0 is all."""

  def calibration(self, batch_size: int) -> Iterator[Batch]:
    """Training batches, always the same, to take `statistics` from."""

  def statistics(self, params: Params, batch: Batch) -> Any:
    """What `outputs` needs beside the parameters; its mean is used."""

  def outputs(self, params: Params, statistics: Any, batch: Batch) -> jax.Array:
    """What `score` needs to know of each example, [rows, ...]."""

  def score(self, outputs: np.ndarray, held_out: Batch) -> dict[str, float]:
    """From the outputs for all held-out examples to 'loss' and other metrics.

    Args:
      outputs: [examples, ...].
      held_out: the examples.
    """
