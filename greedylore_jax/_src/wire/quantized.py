"""Messages that are sent as integers, which can be summed on the way."""

import jax.numpy as jnp
import numpy as np

from greedylore_jax._src.types import DType
from greedylore_jax._src.wire.rounds import Each, Gather, Product, Rounds


def as_integers(rounds: Rounds, dtype: DType, num_workers: int) -> Rounds:
  """The same rounds with means of integers, [k, m, n].

  Every column or row, whichever is longer, has its own scale: the largest
  magnitude that any worker has there, which a small gather finds first. The
  integers are small enough for their sum to fit the dtype. The rounding error
  is not part of what counts as sent, so error feedback keeps it.
  """
  limit = int(np.iinfo(dtype).max) // num_workers
  if not limit:
    raise ValueError(
      f'factor_dtype={jnp.dtype(dtype).name} cannot hold the sum of'
      f' {num_workers} workers: use a floating dtype.'
    )
  reply = None
  while True:
    try:
      message = rounds.send(reply)
    except StopIteration as stop:
      return stop.value
    if isinstance(message, Gather | Each | Product):
      reply = yield message
      continue
    along = 1 if message.shape[1] > message.shape[2] else 2
    (scales,) = yield Gather(jnp.max(jnp.abs(message), along, keepdims=True))
    scale = jnp.max(scales, axis=0)
    step = jnp.where(scale > 0, scale, 1) / limit
    # A NaN has no integer; it reaches the others with the scale.
    levels = jnp.nan_to_num(jnp.round(message / step))
    mean, local = yield levels.astype(dtype)
    reply = mean.astype(step.dtype) * step, local.astype(step.dtype) * step
