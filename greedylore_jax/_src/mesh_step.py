"""A jitted training step that puts what it is given onto the mesh."""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.state import placement
from greedylore_jax._src.types import (
  Array,
  AxisName,
  Function,
  OptState,
  Params,
  PyTree,
  Spec,
)

_P: Any = jax.sharding.PartitionSpec


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """A jitted step that first puts parameters and batch onto the mesh.

  Arrays that are already on the mesh keep their sharding, and so do the
  results: parameters that are sharded over the devices of a worker stay so.
  Everything else is moved there, parameters replicated and the batch divided
  over the workers. With several processes, pass global arrays: each process has
  its part of a batch and joins them with
  `jax.make_array_from_process_local_data`.

  Attributes:
    jitted: the jitted function of arrays that are on the mesh.
    mesh: the devices.
    axis_name: mesh axis (or tuple of axes) of the workers.
    accumulate_steps: micro-batches per step.
    steps_per_call: steps that one call takes.

  Example:
    See `make_train_step`, which makes it.
  """

  jitted: Any
  mesh: jax.sharding.Mesh
  axis_name: AxisName
  accumulate_steps: int = 1
  steps_per_call: int = 1

  def __call__(
    self,
    params: Params,
    opt_state: OptState,
    batch: PyTree,
    *args: PyTree,
    key: Array | None = None,
  ) -> tuple[Params, OptState, Any]:
    """Takes the step; see `make_train_step`."""
    _check_alive(params, opt_state)
    call = _Call(params, opt_state, batch, args, key)
    held, call = self._placed(call, jax.device_put)
    result: tuple[Params, OptState, Any] = self.jitted(
      held, *call[:3], *call.args, **call.keywords
    )
    return result

  def lower(
    self,
    params: Params,
    opt_state: OptState,
    batch: PyTree,
    *args: PyTree,
    key: Array | None = None,
  ) -> jax.stages.Lowered:
    """As `jax.jit(...).lower`, for arrays or `jax.ShapeDtypeStruct`s.

    Call what it compiles with the same arguments, already on the mesh.
    """

    def describe(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    call = _Call(params, opt_state, batch, args, key)
    held, call = self._placed(call, describe)
    lowered: jax.stages.Lowered = self.jitted.lower(
      held, *call[:3], *call.args, **call.keywords
    )
    return lowered

  def _placed(
    self, call: '_Call', put: Function
  ) -> tuple[tuple[Spec, ...], '_Call']:
    """The call on the mesh, and how parameters and state are sharded there."""
    workers = placement.workers_on(self.mesh, self.axis_name)
    self._check_batch(call.batch, workers)
    specs: list[Spec] = []

    def place(x: Any, otherwise: Any) -> Any:
      given = getattr(x, 'sharding', None)
      sharding = placement.on_mesh(self.mesh, given) or otherwise
      specs.append(sharding and sharding.spec)
      return x if sharding in (None, given) else put(x, sharding)

    def each(tree: PyTree, spec: Spec) -> PyTree:
      otherwise = jax.sharding.NamedSharding(self.mesh, spec)
      return jax.tree.map(lambda x: place(x, otherwise), tree)

    params = each(call.params, _P())
    opt_state = jax.tree.map(lambda x: place(x, None), call.opt_state)
    held = tuple(specs)
    batch = each(call.batch, _batch_spec(self.axis_name, self.steps_per_call))
    if self.axis_name is None:
      _check_shared(specs, self.mesh)
    args, key = each((call.args, call.key), _P())
    return held, _Call(params, opt_state, batch, args, key)

  def _check_batch(self, batch: PyTree, workers: int) -> None:
    """Raises unless every leaf divides over steps, workers, micro-batches."""
    several = self.steps_per_call > 1
    parts = workers * self.accumulate_steps
    for path, x in jax.tree_util.tree_leaves_with_path(batch):
      name = checks.path_name(path) or 'batch'
      if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        raise ValueError(
          f'The batch must hold arrays of examples, got a PRNG key in {name!r}:'
          ' pass it as step(params, opt_state, batch, key=key), which gives'
          ' every worker its own.'
        )
      shape = jnp.shape(x)
      if several and shape[:1] != (self.steps_per_call,):
        raise ValueError(
          f'The leading axis of {name!r} in the batch must be the'
          f' {self.steps_per_call} steps of a call, got shape {shape}: stack'
          ' the batches of these steps.'
        )
      size = shape[several : several + 1]
      if size in ((), (0,)) or size[0] % parts:
        raise ValueError(
          f'The {"second" if several else "leading"} axis of {name!r} in the'
          f' batch must be a multiple of {workers} workers x'
          f' {self.accumulate_steps} micro-batches, and not 0, got shape'
          f' {shape}.'
        )


class _Call(NamedTuple):
  """The arguments of a step."""

  params: Params
  opt_state: OptState
  batch: PyTree
  args: tuple[PyTree, ...]
  key: Array | None

  @property
  def keywords(self) -> dict[str, Array]:
    """The key, if there is one."""
    return {} if self.key is None else {'key': self.key}


def _check_alive(params: Params, opt_state: OptState) -> None:
  """Raises if an earlier step has already reused the memory of an argument."""
  for path, x in jax.tree_util.tree_leaves_with_path((params, opt_state)):
    is_array = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
    if is_array and x.is_deleted():
      name = ('params', 'opt_state')[path[0].idx]
      raise ValueError(
        f'{name} must be what the last step returned, got arrays whose memory'
        ' an earlier step has reused: pass on its results, or use'
        ' make_train_step(..., donate=False).'
      )


def _check_shared(specs: Sequence[Spec], mesh: jax.sharding.Mesh) -> None:
  """Raises if the devices of a single worker would all do the same work."""
  if mesh.size > 1 and not any(spec and any(spec) for spec in specs):
    raise ValueError(
      f'axis_name=None means a single worker, but the mesh has {mesh.size}'
      ' devices and nothing is sharded over them, so all would do the same'
      ' work: name the axis of the workers, shard parameters or batch, or use'
      ' a mesh of one device.'
    )


def _batch_spec(axis_name: AxisName, steps_per_call: int) -> Spec:
  """How a batch is divided over the workers."""
  return _P(axis_name) if steps_per_call == 1 else _P(None, axis_name)
