"""Low-rank gradient compression with error feedback for distributed JAX."""

from greedylore_jax._src.engine.policy import PolicyOptions
from greedylore_jax._src.gradients import value_and_local_grad
from greedylore_jax._src.report.collectives import Collective
from greedylore_jax._src.report.collectives import collectives
from greedylore_jax._src.report.diagnostics import Diagnostics
from greedylore_jax._src.report.plan import Plan
from greedylore_jax._src.report.plan import plan
from greedylore_jax._src.report.prediction import Prediction
from greedylore_jax._src.report.prediction import predict
from greedylore_jax._src.state.checkpoint import collapse
from greedylore_jax._src.state.checkpoint import expand
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.state.placement import init_state
from greedylore_jax._src.state.placement import place_state
from greedylore_jax._src.state.placement import state_partition_specs
from greedylore_jax._src.state.placement import state_template
from greedylore_jax._src.train_step import TrainStep
from greedylore_jax._src.train_step import make_train_step
from greedylore_jax._src.transform import average_gradients
from greedylore_jax._src.transform import compress_gradients
from greedylore_jax._src.transform import greedylore
from greedylore_jax._src.tsr_adam import TSRAdamState
from greedylore_jax._src.tsr_adam import tsr_adam
from greedylore_jax._src.wire.rounds import Each
from greedylore_jax._src.wire.rounds import Gather
from greedylore_jax._src.wire.rounds import Product
from greedylore_jax.compressors import TSR
from greedylore_jax.compressors import Compressor
from greedylore_jax.compressors import Dense
from greedylore_jax.compressors import FixedSubspace
from greedylore_jax.compressors import Frozen
from greedylore_jax.compressors import GreedyLore
from greedylore_jax.compressors import PowerSGD
from greedylore_jax.compressors import Quantize
from greedylore_jax.compressors import RandomK
from greedylore_jax.compressors import RandomSubspace
from greedylore_jax.compressors import RangeFinder
from greedylore_jax.compressors import Sign
from greedylore_jax.compressors import TopK

__all__ = [
  'TSR',
  'Collective',
  'CompressState',
  'Compressor',
  'Dense',
  'Diagnostics',
  'Each',
  'FixedSubspace',
  'Frozen',
  'Gather',
  'GreedyLore',
  'Plan',
  'PolicyOptions',
  'PowerSGD',
  'Prediction',
  'Product',
  'Quantize',
  'RandomK',
  'RandomSubspace',
  'RangeFinder',
  'Sign',
  'TSRAdamState',
  'TopK',
  'TrainStep',
  'average_gradients',
  'collapse',
  'collectives',
  'compress_gradients',
  'expand',
  'greedylore',
  'init_state',
  'make_train_step',
  'place_state',
  'plan',
  'predict',
  'state_partition_specs',
  'state_template',
  'tsr_adam',
  'value_and_local_grad',
]
