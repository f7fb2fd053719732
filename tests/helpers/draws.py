"""What the methods draw in a step, for oracles of them."""

import jax
import numpy as np

from greedylore_jax._src.engine import exchange


def leaf_key(seed, step, index):
  """The PRNG key of the leaf of this index."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return exchange.leaf_keys(key, index + 1)[index]


def hashes(key, k, size, rows, width):
  """The shifts, [k, rows, blocks], and signs, [k, size], of a count sketch.

  A word of 32 bits for each shift, then a bit for each sign.
  """
  blocks = -(-size // width)
  words = rows * blocks, -(-blocks * width // 32)
  drawn = np.asarray(jax.random.bits(key, (k, sum(words)), 'uint32'))
  shifts = drawn[:, : words[0]].reshape(k, rows, blocks) % width
  bits = drawn[:, words[0] :, None] >> np.arange(32, dtype=np.uint32) & 1
  signs = 1 - 2.0 * bits.reshape(k, -1)[:, :size]
  return shifts.astype(int), signs
