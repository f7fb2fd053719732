"""Compression methods, one a file, each written like its paper."""

from greedylore_jax.compressors.base import Compressor
from greedylore_jax.compressors.dense import Dense
from greedylore_jax.compressors.greedylore import GreedyLore
from greedylore_jax.compressors.powersgd import PowerSGD
from greedylore_jax.compressors.range_finder import RangeFinder
from greedylore_jax.compressors.subspaces import FixedSubspace
from greedylore_jax.compressors.subspaces import RandomSubspace

__all__ = [
    'Compressor',
    'Dense',
    'FixedSubspace',
    'GreedyLore',
    'PowerSGD',
    'RandomSubspace',
    'RangeFinder',
]
