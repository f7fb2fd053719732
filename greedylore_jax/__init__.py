"""Low-rank gradient compression with error feedback for distributed JAX."""

from greedylore_jax._src.engine.policy import PolicyOptions
from greedylore_jax._src.engine.round_length import QSR, SelSync
from greedylore_jax._src.frugal import FrugalState, frugal
from greedylore_jax._src.gradients import value_and_local_grad
from greedylore_jax._src.local_updates import local_updates
from greedylore_jax._src.lordo import lordo
from greedylore_jax._src.mesh_step import TrainStep
from greedylore_jax._src.report.collectives import Collective, collectives
from greedylore_jax._src.report.diagnostics import Diagnostics
from greedylore_jax._src.report.plan import Plan, plan
from greedylore_jax._src.report.prediction import Prediction, predict
from greedylore_jax._src.sketched_amsgrad import (
  SketchedAMSGradState,
  sketched_amsgrad,
)
from greedylore_jax._src.state.checkpoint import collapse, expand
from greedylore_jax._src.state.compress_state import CompressState
from greedylore_jax._src.state.local_state import (
  InFlight,
  LocalUpdatesState,
  local_params,
)
from greedylore_jax._src.state.per_worker import PerWorker
from greedylore_jax._src.state.placement import (
  init_state,
  place_state,
  state_partition_specs,
  state_template,
)
from greedylore_jax._src.train_step import make_train_step
from greedylore_jax._src.transform import (
  average_gradients,
  compress_gradients,
  greedylore,
)
from greedylore_jax._src.tsr_adam import TSRAdamState, tsr_adam
from greedylore_jax._src.wire.rounds import Each, Gather, Product, Quantized
from greedylore_jax.compressors import (
  TSR,
  ChunkTopK,
  Compressor,
  CountSketch,
  Dense,
  FixedSubspace,
  Frozen,
  GreedyLore,
  PastSketches,
  PowerSGD,
  Quantize,
  RandomK,
  RandomSubspace,
  RangeFinder,
  Sign,
  SplitColumns,
  ThresholdTopK,
  TopK,
)

__version__ = '0.1.0'

__all__ = [
  'QSR',
  'TSR',
  'ChunkTopK',
  'Collective',
  'CompressState',
  'Compressor',
  'CountSketch',
  'Dense',
  'Diagnostics',
  'Each',
  'FixedSubspace',
  'Frozen',
  'FrugalState',
  'Gather',
  'GreedyLore',
  'InFlight',
  'LocalUpdatesState',
  'PastSketches',
  'PerWorker',
  'Plan',
  'PolicyOptions',
  'PowerSGD',
  'Prediction',
  'Product',
  'Quantize',
  'Quantized',
  'RandomK',
  'RandomSubspace',
  'RangeFinder',
  'SelSync',
  'Sign',
  'SketchedAMSGradState',
  'SplitColumns',
  'TSRAdamState',
  'ThresholdTopK',
  'TopK',
  'TrainStep',
  'average_gradients',
  'collapse',
  'collectives',
  'compress_gradients',
  'expand',
  'frugal',
  'greedylore',
  'init_state',
  'local_params',
  'local_updates',
  'lordo',
  'make_train_step',
  'place_state',
  'plan',
  'predict',
  'sketched_amsgrad',
  'state_partition_specs',
  'state_template',
  'tsr_adam',
  'value_and_local_grad',
]
