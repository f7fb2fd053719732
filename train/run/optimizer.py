"""The optax chain of a run: compression first, then any optimizer."""

from collections.abc import Callable
import dataclasses
import inspect
from typing import Any

import jax
import optax

import greedylore_jax as gl
from train import tasks
from train.config import command_line as command
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Optimizer

# After so many non-finite steps in a row something is broken for good; none of
# them is ever taken.
MAX_SKIPPED_IN_A_ROW = 10
_SKIPPED = 2**31 - 1


def build(
  settings: Config, axis_name: str, task: tasks.Task
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The chain and its learning-rate schedule.

  Clipping, decay and the optimizer act on the averaged gradient and are skipped
  together for a step in which any worker's gradient was not finite.

  Args:
    settings: the configuration.
    axis_name: mesh axis of the workers.
    task: says which parameters are matrices, for the compression.

  Raises:
    ValueError: if optax has no such optimizer or it takes no such option.
  """
  _check_tsr_adam(settings)
  sent, step = settings.compression, settings.optimizer
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=step.learning_rate,
    warmup_steps=min(
      round(step.warmup_fraction * settings.steps), settings.steps - 1
    ),
    decay_steps=settings.steps,
    end_value=step.final_fraction * step.learning_rate,
  )
  if sent.method == 'tsr_adam':
    return optax.chain(
      _tsr_adam(settings, schedule, axis_name, task),
      optax.apply_if_finite(optax.identity(), _SKIPPED),
    ), schedule
  clip = optax.clip_by_global_norm(step.clip_norm)
  behind = optax.chain(
    clip if step.clip_norm else optax.identity(), _by_name(step, schedule, task)
  )
  return optax.chain(
    gl.compress_gradients(
      compressors(sent, task), axis_name, seed=sent.seed, **policy(sent, task)
    ),
    optax.apply_if_finite(behind, _SKIPPED),
  ), schedule


def _check_tsr_adam(settings: Config) -> None:
  """Raises a ValueError for an optimizer that cannot be TSR-Adam."""
  sent, step = settings.compression, settings.optimizer
  if sent.method != 'tsr_adam':
    return
  if step.name not in ('adam', 'adamw') or sent.start_step:
    raise ValueError(
      'compression.method tsr_adam is an Adam of its own, from the first step'
      ' on: it takes optimizer.name adamw and compression.start_step 0, got'
      f' {step.name} and {sent.start_step}.'
    )


def _tsr_adam(
  settings: Config, schedule: Any, axis_name: str, task: tasks.Task
) -> optax.GradientTransformation:
  """The optimizer that sends and steps in one."""
  sent, step = settings.compression, settings.optimizer
  options = {
    name: getattr(step, name)
    for name in ('b1', 'b2', 'eps', 'weight_decay')
    if getattr(step, name) is not None
  }
  return gl.tsr_adam(
    schedule,
    sent.rank,
    axis_name,
    embedding_rank=sent.embedding_rank or sent.rank,
    update_interval=sent.update_interval,
    embedding_update_interval=(
      sent.embedding_update_interval or sent.update_interval
    ),
    embeddings=task.embeddings,
    average=sent.average,
    rotate_moments=sent.rotate_moments,
    scale=sent.scale,
    clip_norm=step.clip_norm or None,
    weight_dimension_numbers=_matrices(sent, task),
    min_compression_rate=sent.min_compression_rate,
    seed=sent.seed,
    **options,
  )


def compressors(
  settings: Compression, task: tasks.Task
) -> list[tuple[str, Any]]:
  """The method of each parameter, as rules over their paths."""
  of_embeddings = dataclasses.replace(
    settings,
    method=settings.embedding_method or settings.method,
    rank=settings.embedding_rank or settings.rank,
    update_interval=(
      settings.embedding_update_interval or settings.update_interval
    ),
  )
  return [
    (task.embeddings, compressor(of_embeddings)),
    ('', compressor(settings)),
  ]


def compressor(settings: Compression) -> gl.Compressor:
  """The method that the configuration names."""
  rank, interval = settings.rank, settings.update_interval
  match settings.method:
    case 'dense':
      return gl.Dense()
    case 'greedylore':
      return gl.GreedyLore(
        rank, interval, settings.probes or 'independent', settings.basis_size
      )
    case 'powersgd':
      return gl.PowerSGD(rank)
    case 'range_finder':
      return gl.RangeFinder(rank, settings.warm)
    case 'two_sided':
      return gl.TwoSided(rank, interval, settings.probes)
    case 'tsr' | 'tsr_adam':
      return gl.TSR(rank, interval, average=settings.average)
    case 'fixed_subspace':
      return gl.FixedSubspace(rank, interval)
    case 'random_subspace':
      return gl.RandomSubspace(rank, interval)
    case 'top_k':
      return gl.TopK(settings.density, settings.indices, settings.probes)
    case 'random_k':
      return gl.RandomK(settings.density)
    case 'quantize':
      return gl.Quantize(settings.bits)
    case 'sign':
      return gl.Sign()


def policy(settings: Compression, task: tasks.Task) -> dict[str, Any]:
  """The arguments that `gl.compress_gradients` and `gl.plan` share."""
  return {
    'start_step': settings.start_step,
    'error_feedback': (
      settings.method != 'tsr_adam' and settings.error_feedback
    ),
    'min_compression_rate': settings.min_compression_rate,
    'weight_dimension_numbers': _matrices(settings, task),
    'error_dtype': settings.error_dtype,
    'factor_dtype': settings.factor_dtype,
    'stagger': settings.stagger,
    'share_decompositions': settings.share_decompositions,
  }


def plan(
  settings: Compression,
  task: tasks.Task,
  params: Any,
  num_workers: int,
  devices_per_worker: int = 1,
) -> gl.Plan:
  """What the chain of `build` will send.

  Args:
    settings: of the compression.
    task: as for `build`.
    params: or their shapes.
    num_workers: how many average.
    devices_per_worker: over which parameters may lie spread.

  Raises:
    ValueError: if the compression cannot be so.
  """
  return gl.plan(
    compressors(settings, task),
    params,
    num_workers=num_workers,
    devices_per_worker=devices_per_worker,
    **policy(settings, task),
  )


def _matrices(settings: Compression, task: tasks.Task) -> Callable[[Any], Any]:
  """From parameters to dimension numbers."""
  return lambda params: task.matrices(params, settings.embeddings)


def _by_name(
  settings: Optimizer, schedule: optax.Schedule, task: tasks.Task
) -> optax.GradientTransformation:
  """`optax.NAME(schedule, ...)` with the options that were set."""
  factory: Any = getattr(optax, settings.name, None)
  takes = inspect.signature(factory).parameters if callable(factory) else {}
  if 'learning_rate' not in takes:
    raise ValueError(
      f'optimizer.name must be an optimizer of optax, got {settings.name!r}'
      f'{_nearest_optimizer(settings.name)}.'
    )
  options = {
    name: getattr(settings, name)
    for name in ('weight_decay', 'momentum', 'nesterov', 'b1', 'b2', 'eps')
    if getattr(settings, name) is not None
  }
  decay = None
  if 'weight_decay' not in takes:
    decay = options.pop('weight_decay', None)
  for name in options.keys() - takes.keys():
    raise ValueError(
      f'optimizer.{name} does not apply to optax.{settings.name}, which takes'
      f' {", ".join(takes)}.'
    )
  _check_steps(settings.name, lambda: factory(schedule, **options))
  if 'mask' in takes:
    options['mask'] = _is_matrix(task)
  optimizer = factory(schedule, **options)
  if decay is None:
    return optimizer
  decays = optax.add_decayed_weights(decay, _is_matrix(task))
  return optax.chain(decays, optimizer)


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

  def mask(params: Any) -> Any:
    numbers = task.matrices(params, embeddings=True)
    is_none = lambda x: x is None
    return jax.tree.map(
      lambda _, x: x is not None, params, numbers, is_leaf=is_none
    )

  return mask


def _nearest_optimizer(name: str) -> str:
  known = [
    x
    for x in dir(optax)
    if inspect.isfunction(getattr(optax, x))
    and 'learning_rate' in inspect.signature(getattr(optax, x)).parameters
  ]
  return command.nearest(name, known)
