"""The optax chain of a run: compression first, then any optimizer."""

from collections.abc import Callable
import dataclasses
import inspect
from typing import Any

import jax
import optax

import greedylore_jax as gl
from train import tasks
from train.config.schema import Compression, Config, Optimizer
from train.config.section import nearest

# After so many non-finite steps in a row something is broken for good; none of
# them is ever taken.
MAX_SKIPPED_IN_A_ROW = 10
_SKIPPED = 2**31 - 1


def build(
  config: Config,
  axis_name: str,
  task: tasks.Task,
  *,
  schedule: optax.Schedule | None = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optax chain of a run and its learning-rate schedule.

  Clipping, decay and the optimizer act on the averaged gradient. All of them
  skip a step in which the gradient of any worker was not finite.

  Args:
    config: the configuration.
    axis_name: mesh axis of the workers.
    task: says which parameters are matrices, for the compression and Muon.
    schedule: replaces `learning_rates(config)`, also in QSR and, scaled, for
      what Muon leaves to AdamW. Its values may be traced.

  Raises:
    ValueError: if optax has no such optimizer or it takes no such option.
  """
  compression, options = config.compression, config.optimizer
  schedule = learning_rates(config) if schedule is None else schedule
  if compression.method == 'lordo':
    return _lordo(config, schedule, axis_name, task), schedule
  if config.local.is_on:
    return _local(config, schedule, axis_name, task), schedule
  if compression.method in _OPTIMIZERS:
    _check_is_adam(config)
    make = _OPTIMIZERS[compression.method]
    first, then = make(config, schedule, axis_name, task), optax.identity()
  else:
    first = gl.compress_gradients(
      compressors(compression, task),
      axis_name,
      seed=compression.seed,
      **policy(compression, task),
    )
    then = _clipped(options, schedule, task)
  return optax.chain(first, optax.apply_if_finite(then, _SKIPPED)), schedule


def learning_rates(config: Config) -> optax.Schedule:
  """A linear warm-up, then a cosine."""
  options = config.optimizer
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=options.learning_rate,
    warmup_steps=min(
      round(options.warmup_fraction * config.steps), config.steps - 1
    ),
    decay_steps=config.steps,
    end_value=options.final_fraction * options.learning_rate,
  )


def _clipped(
  options: Optimizer, schedule: optax.Schedule, task: tasks.Task
) -> optax.GradientTransformation:
  """Clipping, then the optimizer that the configuration names."""
  clip = optax.clip_by_global_norm(options.clip_norm)
  return optax.chain(
    clip if options.clip_norm else optax.identity(),
    _by_name(options, schedule, task),
  )


def _local(
  config: Config, schedule: optax.Schedule, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """Rounds of local steps of the optimizer, whose outcome is compressed."""
  local = config.local
  return gl.local_updates(
    _clipped(config.optimizer, schedule, task),
    outer=_outer(config, axis_name, task),
    every=round_length(config, schedule),
    start_step=local.start_step,
    total_steps=config.steps,
    fragments=local.fragments,
    delay=local.delay,
    average_moments=local.average_moments,
    axis_name=axis_name,
  )


def _outer(
  config: Config, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """What happens to the movement of a round: it is sent, then a step."""
  compression, local = config.compression, config.local
  return optax.chain(
    gl.compress_gradients(
      compressors(compression, task),
      axis_name,
      seed=compression.seed,
      **policy(compression, task),
    ),
    optax.sgd(
      local.outer_learning_rate,
      momentum=local.outer_momentum or None,
      nesterov=local.outer_nesterov and bool(local.outer_momentum),
    ),
  )


def round_length(
  config: Config, schedule: optax.Schedule
) -> int | gl.QSR | gl.SelSync:
  """The number of local steps in a round, or its rule."""
  local = config.local
  if local.qsr_alpha is not None:
    return gl.QSR(schedule, local.qsr_alpha, local.every)
  if local.selsync_threshold is not None:
    return gl.SelSync(local.selsync_threshold, max_steps=local.every)
  return local.every


def _check_is_adam(config: Config) -> None:
  """Raises if a method that is an Adam should be another optimizer."""
  compression, options = config.compression, config.optimizer
  has_start = compression.method in ('sketched_amsgrad', 'lordo')
  if options.name in ('adam', 'adamw') and (
    has_start or not compression.start_step
  ):
    return
  raise ValueError(
    f'compression.method {compression.method} is an Adam of its own, from the'
    ' first step on: it takes optimizer.name adamw and compression.start_step'
    f' 0, got {options.name} and {compression.start_step}.'
  )


def _tsr_adam(
  config: Config, schedule: optax.Schedule, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """Adam on cores."""
  compression = config.compression
  interval = compression.update_interval
  return gl.tsr_adam(
    schedule,
    compression.rank,
    axis_name,
    embedding_rank=compression.embedding_rank or compression.rank,
    update_interval=interval,
    embedding_update_interval=compression.embedding_update_interval or interval,
    embeddings=task.embeddings,
    average=compression.average,
    rotate_moments=compression.rotate_moments,
    scale=compression.scale,
    **_of_adam(config, task),
  )


def _sketched_amsgrad(
  config: Config, schedule: optax.Schedule, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """AMSGrad on the entries of a sketch."""
  compression = config.compression
  return gl.sketched_amsgrad(
    schedule,
    compression.density,
    axis_name,
    columns=compression.sketch_columns,
    rows=compression.sketch_rows,
    **(policy(compression, task) | _of_adam(config, task)),
  )


def _frugal(
  config: Config, schedule: optax.Schedule, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """AdamW on some columns, signs on the others."""
  compression = config.compression
  return gl.frugal(
    schedule,
    axis_name,
    density=compression.density,
    update_interval=compression.update_interval,
    compressor=_payload(compression),
    sign_scale=compression.sign_scale,
    error_feedback=compression.error_feedback,
    **_of_adam(config, task),
  )


def _lordo(
  config: Config, schedule: optax.Schedule, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """Local steps of a low-rank Adam, whose outcome is compressed."""
  _check_is_adam(config)
  compression, local = config.compression, config.local
  every: Any = round_length(config, schedule)
  return gl.lordo(
    schedule,
    compression.rank,
    axis_name,
    every=every,
    outer=_outer(config, axis_name, task),
    update_interval=compression.renew_rounds,
    quasi_hyperbolic=compression.quasi_hyperbolic,
    error_feedback=compression.error_feedback,
    start_step=local.start_step,
    total_steps=config.steps,
    **_of_adam(config, task),
  )


def _of_adam(config: Config, task: tasks.Task) -> dict[str, Any]:
  """The arguments that the methods which are optimizers share."""
  compression, options = config.compression, config.optimizer
  return {
    'clip_norm': options.clip_norm or None,
    'weight_dimension_numbers': _matrices(compression, task),
    'min_compression_rate': compression.min_compression_rate,
    'seed': compression.seed,
    **options.given('b1', 'b2', 'eps', 'weight_decay'),
  }


_OPTIMIZERS = {
  'tsr_adam': _tsr_adam,
  'sketched_amsgrad': _sketched_amsgrad,
  'frugal': _frugal,
}


def compressors(
  compression: Compression, task: tasks.Task
) -> list[tuple[str, Any]]:
  """The method of each parameter, as rules over their paths."""
  of_embeddings = dataclasses.replace(
    compression,
    method=compression.embedding_method or compression.method,
    rank=compression.embedding_rank or compression.rank,
    update_interval=(
      compression.embedding_update_interval or compression.update_interval
    ),
  )
  return [
    (task.embeddings, compressor(of_embeddings)),
    ('', compressor(compression)),
  ]


def compressor(compression: Compression) -> gl.Compressor:
  """The method that the configuration names."""
  rank, interval = compression.rank, compression.update_interval
  match compression.method:
    case 'dense':
      return gl.Dense()
    case 'greedylore':
      return gl.GreedyLore(
        rank,
        interval,
        compression.probes or 'independent',
        compression.basis_size,
      )
    case 'past_sketches':
      return gl.PastSketches(rank, compression.fresh)
    case 'powersgd':
      return gl.PowerSGD(rank)
    case 'range_finder':
      return gl.RangeFinder(rank, compression.warm)
    case 'tsr' | 'tsr_adam':
      return gl.TSR(rank, interval, average=compression.average)
    case 'fixed_subspace':
      return gl.FixedSubspace(rank, interval)
    case 'random_subspace':
      return gl.RandomSubspace(rank, interval)
    case 'top_k':
      return gl.TopK(
        compression.density, compression.indices, compression.probes
      )
    case 'random_k':
      return gl.RandomK(compression.density)
    case 'count_sketch' | 'sketched_amsgrad':
      return gl.CountSketch(
        rows=compression.sketch_rows,
        columns=compression.sketch_columns,
        density=compression.density,
      )
    case 'frugal':
      return gl.SplitColumns(
        compression.density, interval, _payload(compression)
      )
    case 'lordo':
      return _payload(compression)
    case 'chunk_top_k':
      return gl.ChunkTopK(
        chunk=compression.chunk,
        keep=compression.keep,
        bits=compression.bits,
        transform=compression.transform,
      )
    case 'threshold_top_k':
      return gl.ThresholdTopK(compression.density, interval, compression.slack)
    case 'quantize':
      return gl.Quantize(compression.bits)
    case 'sign':
      return gl.Sign()


def _payload(compression: Compression) -> gl.Compressor:
  """How a method that is an optimizer sends what it does not compress."""
  method = compression.payload_method
  return compressor(dataclasses.replace(compression, method=method))


def policy(compression: Compression, task: tasks.Task) -> dict[str, Any]:
  """The arguments that `gl.compress_gradients` and `gl.plan` share."""
  return {
    'start_step': compression.start_step,
    'error_feedback': (
      compression.method != 'tsr_adam' and compression.error_feedback
    ),
    'min_compression_rate': compression.min_compression_rate,
    'weight_dimension_numbers': _matrices(compression, task),
    'error_decay': compression.error_decay,
    'error_dtype': compression.error_dtype,
    'factor_dtype': compression.factor_dtype,
    'dense_dtype': compression.dense_dtype,
    'stagger': compression.stagger,
  }


def late_start(config: Config) -> list[str]:
  """A line if the run ends before anything is compressed."""
  start, local = config.compression.start_step, config.local
  short = min(local.start_step, config.steps)  # Rounds of one step.
  rounds = short + (config.steps - short) // local.every
  is_unknown = local.selsync_threshold is not None  # How many there will be.
  is_dense = config.compression.method == 'dense'
  if is_dense or is_unknown or not start or start < rounds:
    return []
  unit = 'rounds' if local.is_on else 'steps'
  return [
    f'This run compresses nothing: compression.start_step is {start}, and it'
    f' has {rounds} {unit}.'
  ]


def plan(
  config: Config,
  task: tasks.Task,
  params: Any,
  num_workers: int,
  devices_per_worker: int = 1,
) -> gl.Plan:
  """What the chain of `build` will send.

  Args:
    config: the configuration.
    task: as for `build`.
    params: or their shapes.
    num_workers: number of workers.
    devices_per_worker: over which parameters may be sharded.

  Raises:
    ValueError: if the options of the compression contradict each other.
  """
  local, schedule = config.local, learning_rates(config)
  return gl.plan(
    compressors(config.compression, task),
    params,
    num_workers=num_workers,
    devices_per_worker=devices_per_worker,
    every=round_length(config, schedule),
    local_start_step=local.start_step,
    total_steps=config.steps,
    fragments=local.fragments,
    delay=local.delay,
    average_moments=local.average_moments,
    inner=_clipped(config.optimizer, schedule, task),
    **policy(config.compression, task),
  )


def _matrices(
  compression: Compression, task: tasks.Task
) -> Callable[[Any], Any]:
  """From parameters to dimension numbers."""
  return lambda params: task.matrices(params, compression.embeddings)


def _by_name(
  options: Optimizer, schedule: optax.Schedule, task: tasks.Task
) -> optax.GradientTransformation:
  """`optax.NAME(schedule, ...)` with the options that were set, or Muon."""
  if options.name == 'muon':
    return _muon(options, schedule, task)
  factory: Any = getattr(optax, options.name, None)
  takes = inspect.signature(factory).parameters if callable(factory) else {}
  if 'learning_rate' not in takes:
    raise ValueError(
      f'optimizer.name must be an optimizer of optax, got {options.name!r}'
      f'{_nearest_optimizer(options.name)}.'
    )
  given = options.given(
    'weight_decay', 'momentum', 'nesterov', 'b1', 'b2', 'eps'
  )
  decay = None
  if 'weight_decay' not in takes:
    decay = given.pop('weight_decay', None)
  for name in given.keys() - takes.keys():
    raise ValueError(
      f'optimizer.{name} does not apply to optax.{options.name}, which takes'
      f' {", ".join(takes)}.'
    )
  _check_steps(options.name, lambda: factory(schedule, **given))
  if 'mask' in takes:
    given['mask'] = _is_matrix(task)
  optimizer = factory(schedule, **given)
  if decay is None:
    return optimizer
  decays = optax.add_decayed_weights(decay, _is_matrix(task))
  return optax.chain(decays, optimizer)


def _muon(
  options: Optimizer, schedule: optax.Schedule, task: tasks.Task
) -> optax.GradientTransformation:
  """Muon for the matrices without embeddings and head, AdamW for the rest."""
  # Without a key of its own, AdamW's 1e-3 goes with Muon's 1e-2.
  ratio = 0.1
  if options.adam_learning_rate is not None:
    ratio = options.adam_learning_rate / options.learning_rate
  decay = options.given('weight_decay')
  momentum = {} if options.momentum is None else {'beta': options.momentum}
  numbers = lambda params: task.matrices(params, False)
  muon = optax.contrib.muon(
    schedule,
    muon_weight_dimension_numbers=numbers,
    **momentum,
    **decay,
    **options.given('nesterov'),
  )
  adamw = optax.adamw(
    lambda count: ratio * schedule(count),
    mask=_is_matrix(task),
    **decay,
    **options.given('b1', 'b2', 'eps'),
  )
  label = lambda _, x: 'adamw' if x is None else 'muon'
  return optax.partition(
    {'muon': muon, 'adamw': adamw},
    lambda params: _map_matrices(label, params, numbers(params)),
  )


def _check_steps(
  name: str, make: Callable[[], optax.GradientTransformation]
) -> None:
  """Raises unless an optimizer can be made and steps by gradients alone."""

  def step(w):
    tx = make()
    return tx.update({'w': w}, tx.init({'w': w}), {'w': w})

  try:
    jax.eval_shape(step, jax.numpy.zeros((2, 2)))
  except (TypeError, ValueError, NotImplementedError) as error:
    reason = str(error).strip().split('\n')[0]
    raise ValueError(
      f'optimizer.name {name!r} does not fit here, where updates follow from'
      f' gradients and a schedule: {reason}'
    ) from None


def _is_matrix(task: tasks.Task) -> Callable[[Any], Any]:
  """What decays: everything but gains and biases."""
  return lambda params: _map_matrices(
    lambda _, x: x is not None, params, task.matrices(params, True)
  )


def _map_matrices(
  function: Callable[[Any, Any], Any], params: Any, numbers: Any
) -> Any:
  """Maps parameters and their dimension numbers, None for no matrix."""
  return jax.tree.map(function, params, numbers, is_leaf=lambda x: x is None)


def _nearest_optimizer(name: str) -> str:
  known = ['muon']
  known += [
    x
    for x in dir(optax)
    if inspect.isfunction(getattr(optax, x))
    and 'learning_rate' in inspect.signature(getattr(optax, x)).parameters
  ]
  return nearest(name, known)
