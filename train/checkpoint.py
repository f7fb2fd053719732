"""Checkpoints: parameters, mean errors, data position and configuration.

Saving replaces every worker's error by the mean of all of them, in the run as
well as on disk: what goes on is exactly what would be restored. So a run that
was interrupted and one that was not give the same numbers, and the size on disk
does not depend on the number of workers. Methods of which every single error
matters save all of them.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

import greedylore_jax as gl
from train import config

_P = jax.sharding.PartitionSpec
# What may differ when a run goes on; everything else is part of what it is.
_FREE = ('workdir', 'mesh', 'distributed', 'evaluation', 'checkpoint', 'log')


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """What a run is between two steps."""

  step: int
  params: Any
  opt_state: Any
  progress: dict[str, Any]
  """Fit for JSON: the data iterator's state and what was counted so far."""


class Checkpoints:
  """The checkpoints of one run in a folder."""

  def __init__(
      self,
      folder: pathlib.Path,
      run: config.Config,
      description: dict[str, Any],
      mesh: jax.sharding.Mesh,
      axis_name: str,
      is_linear: bool,
  ):
    """Opens the folder.

    Args:
      folder: of the checkpoints.
      run: the configuration.
      description: of the data, which must be the same on resuming.
      mesh: the devices.
      axis_name: its axis of the workers.
      is_linear: whether the mean error is enough to go on (`gl.collapse`).
    """
    self._mesh, self._axis = mesh, axis_name
    self._saved_axis = None if is_linear else axis_name
    self._identity = {
        'config': identity(run),
        'data': description,
        'workers': 'any' if is_linear else mesh.shape[axis_name],
    }
    self._manager = ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(max_to_keep=run.checkpoint.keep),
        item_names=('state', 'progress', 'identity'),
    )

  def save(self, now: Snapshot) -> Snapshot:
    """Starts saving and returns the state to go on with."""
    if self._manager.latest_step() == now.step:
      return now
    collapsed = self._on_mesh(gl.collapse, self._saved_axis, now.opt_state)
    self._manager.save(
        now.step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(
                {'params': now.params, 'opt_state': collapsed}
            ),
            progress=ocp.args.JsonSave(now.progress),
            identity=ocp.args.JsonSave(self._identity),
        ),
    )
    return dataclasses.replace(now, opt_state=self._expand(collapsed))

  def latest(self, fresh: Snapshot) -> Snapshot:
    """The newest checkpoint, or `fresh` if there is none.

    Raises:
      ValueError: if the checkpoint is of another configuration or other data.
    """
    step = self._manager.latest_step()
    if step is None:
      return fresh
    saved = self._manager.restore(
        step, args=ocp.args.Composite(identity=ocp.args.JsonRestore())
    ).identity
    _check_identity(saved, self._identity, self._manager.directory)
    collapsed = jax.eval_shape(gl.collapse, fresh.opt_state)
    specs = gl.state_partition_specs(collapsed, self._saved_axis)
    placed = lambda x, spec: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=jax.sharding.NamedSharding(self._mesh, spec)
    )
    target = {
        'params': jax.tree.map(lambda x: placed(x, _P()), fresh.params),
        'opt_state': jax.tree.map(placed, collapsed, specs),
    }
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target),
            progress=ocp.args.JsonRestore(),
        ),
    )
    return Snapshot(
        step,
        restored.state['params'],
        self._expand(restored.state['opt_state']),
        restored.progress,
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: Any) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()
    self._manager.close()

  def _expand(self, collapsed: Any) -> Any:
    workers = self._mesh.shape[self._axis]
    return self._on_mesh(lambda s: gl.expand(s, workers), self._axis, collapsed)

  def _on_mesh(self, function: Any, axis_name: str | None, state: Any) -> Any:
    """A function of the state, with the errors of its result over the axis."""
    shapes = jax.eval_shape(function, state)
    specs = gl.state_partition_specs(shapes, axis_name)
    place = lambda spec: jax.sharding.NamedSharding(self._mesh, spec)
    return jax.jit(function, out_shardings=jax.tree.map(place, specs))(state)


def identity(run: config.Config) -> dict[str, Any]:
  """The part of a configuration that may not change when a run goes on."""
  fields = dataclasses.asdict(run)
  return {key: value for key, value in fields.items() if key not in _FREE}


def _check_identity(saved: Any, now: Any, where: Any) -> None:
  """Raises if a checkpoint belongs to something else, naming what differs."""
  was, is_now = _flat(saved), _flat(now)
  differing = [
      key for key in sorted(was.keys() | is_now.keys())
      if was.get(key) != is_now.get(key)
  ]  # fmt: skip
  if differing == ['workers']:
    raise ValueError(
        f'{where} holds the errors of {was["workers"]} workers, got'
        f' {is_now["workers"]}: the updates of this method depend on every'
        ' single error, so it only goes on with as many workers as before.'
    )
  if differing:
    words = '; '.join(
        f'{key} was {was.get(key)!r} and is {is_now.get(key)!r}'
        for key in differing
    )
    raise ValueError(
        f'{where} holds a run of another configuration: {words}. Use another'
        ' --workdir, or set these back.'
    )


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Nested dicts as {'data.bytes': ...}; sequences as lists, as in JSON."""
  if not isinstance(tree, dict):
    return {prefix: list(tree) if isinstance(tree, tuple) else tree}
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    flat |= _flat(value, f'{prefix}.{key}'.removeprefix('.'))
  return flat
