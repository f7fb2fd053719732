"""What is sent: one method per file, each written like its paper."""

from greedylore_jax.compressors.chunk_top_k import ChunkTopK
from greedylore_jax.compressors.compressor import Compressor
from greedylore_jax.compressors.count_sketch import CountSketch
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.frozen import Frozen
from greedylore_jax.compressors.greedylore import GreedyLore
from greedylore_jax.compressors.past_sketches import PastSketches
from greedylore_jax.compressors.powersgd import PowerSGD
from greedylore_jax.compressors.quantized import Quantize, Sign
from greedylore_jax.compressors.range_finder import RangeFinder
from greedylore_jax.compressors.sparse import RandomK, TopK
from greedylore_jax.compressors.split_columns import SplitColumns
from greedylore_jax.compressors.subspaces import FixedSubspace, RandomSubspace
from greedylore_jax.compressors.threshold_top_k import ThresholdTopK
from greedylore_jax.compressors.tsr import TSR

__all__ = [
  'TSR',
  'ChunkTopK',
  'Compressor',
  'CountSketch',
  'Dense',
  'FixedSubspace',
  'Frozen',
  'GreedyLore',
  'PastSketches',
  'PowerSGD',
  'Quantize',
  'RandomK',
  'RandomSubspace',
  'RangeFinder',
  'Sign',
  'SplitColumns',
  'ThresholdTopK',
  'TopK',
]
