"""What the trainer needs of a task: data, a model, a loss and a score."""

import abc
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

Params = Any
Batch = Any
"""An array or a dict of arrays, all with a leading axis of examples."""


class Batches(Protocol):
  """Endless batches that can resume from a state."""

  def __iter__(self) -> Iterator[Batch]:
    """Itself."""

  def __next__(self) -> Batch:
    """The next batch."""

  def get_state(self) -> dict[str, Any]:
    """The position, in types that JSON can store."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from that position."""


class Task(abc.ABC):
  """A data set, a model and what counts.

  All functions of parameters are pure and can be traced. The defaults are those
  of a small model that needs its parameters only.
  """

  description: dict[str, Any]
  """Identifies the data, in types that JSON can store. Results compare only
  between runs where all of it is equal."""
  introduction: str
  """The same for people: one line, and one more for each remark."""
  unit: str = 'examples'
  """What speed is counted in: 'tokens' or 'examples'."""
  units_per_example: int = 1
  loss_unit: str = 'nats'
  """'nats', or for scores 'squared error'."""
  embeddings: str
  """A pattern of the paths of parameters that `compression.embeddings` is
  about: token embedding and head, stem and classifier."""
  init: Callable[[int], Params]
  """From a seed to initial parameters; equal seeds give equal ones."""
  matrices: Callable[[Params, bool], Any]
  """From parameters, and whether `embeddings` count, to dimension numbers; see
  `gl.compress_gradients`."""
  loss: Callable[[Params, Batch], jax.Array]
  """The mean training loss of a batch, in `loss_unit`."""
  train: Callable[[int, int, int], Batches]
  """From the batch size over all processes, the index of this process and
  their number to the training batches of this process."""
  held_out: Callable[[int], Batch]
  """So many held-out examples, always the same ones; 0 takes all."""

  @abc.abstractmethod
  def example(self) -> Batch:
    """Shape and type of one example of a batch, `jax.ShapeDtypeStruct`s."""

  @abc.abstractmethod
  def outputs(self, params: Params, statistics: Any, batch: Batch) -> jax.Array:
    """What `score` needs to know of each example, [rows, ...]."""

  @abc.abstractmethod
  def score(self, outputs: np.ndarray, held_out: Batch) -> dict[str, float]:
    """From the outputs for all held-out examples to 'loss' and other metrics.

    Args:
      outputs: [examples, ...].
      held_out: the examples.
    """

  def start(self, params: Params) -> Params:
    """What training starts from, given initial parameters on their devices."""
    return params

  def partition_specs(self, params: Params) -> Any:
    """How parameters are sharded over the devices of a worker."""
    return jax.tree.map(lambda _: jax.sharding.PartitionSpec(), params)

  def calibration(self, batch_size: int) -> Iterator[Batch]:
    """Training batches, always the same ones, to compute `statistics` from."""
    del batch_size
    return iter(())

  def statistics(self, params: Params, batch: Batch) -> Any:
    """What `outputs` needs in addition to the parameters; its mean is used."""
    del params, batch
    return ()
