"""What is sent: one method per file, each written like its paper."""

from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.frozen import Frozen
from greedylore_jax.compressors.greedylore import GreedyLore
from greedylore_jax.compressors.powersgd import PowerSGD
from greedylore_jax.compressors.quantized import Quantize
from greedylore_jax.compressors.quantized import Sign
from greedylore_jax.compressors.range_finder import RangeFinder
from greedylore_jax.compressors.sparse import RandomK
from greedylore_jax.compressors.sparse import TopK
from greedylore_jax.compressors.subspaces import FixedSubspace
from greedylore_jax.compressors.subspaces import RandomSubspace
from greedylore_jax.compressors.tsr import TSR

__all__ = [
  'TSR',
  'Compressor',
  'Dense',
  'FixedSubspace',
  'Frozen',
  'GreedyLore',
  'PowerSGD',
  'Quantize',
  'RandomK',
  'RandomSubspace',
  'RangeFinder',
  'Sign',
  'TopK',
]
