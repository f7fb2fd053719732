"""Checkpoints: parameters, mean errors, data position and configuration.

Saving replaces every worker's error by the mean over the workers, in the run as
well as on disk, so a run continues with exactly what would be restored. Runs
with the same checkpoints therefore give the same numbers, interrupted or not
(an additional checkpoint changes the rounding), and the size on disk does not
depend on the number of workers. Nonlinear methods save the errors of all.

With local updates, the optimizer state of every worker is saved. The same
number of workers resumes exactly. Of another number, each begins with the mean
of these states and of the errors.

Saving continues in the background; a checkpoint gets its name when it is
complete. It holds a checksum of every array, of the progress, which contains
the step, and of the run's identity. A checkpoint that does not match its
checksums, or has another step's name, is refused.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import json
import logging
import pathlib
import re
import textwrap
from typing import Any

import jax
import orbax.checkpoint as ocp

import greedylore_jax as gl
from train.config import differences
from train.config.schema import Config
from train.distributed import agreement, cluster, fingerprint
from train.run import json_files

# The parts of a checkpoint that are JSON, and the part with all checksums.
_NOTES = 'progress', 'identity'
_CHECKSUMS = 'checksums'
# What may differ when a run is resumed; everything else identifies it.
_FREE = (
  'workdir',
  'mesh',
  'distributed',
  'evaluation',
  'checkpoint',
  'agreement',
  'log',
)
# Changes rounding only, as the number of workers does.
_ROUNDS = 'accumulate_steps'


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a run has counted so far, in types that JSON can store."""

  data: dict[str, Any] | None = None
  """State of the iterator of batches."""
  bytes_sent: int = 0
  dense_bytes: int = 0
  checkpoint_bytes: int = 0
  seconds: float = 0.0
  skipped: int = 0
  diagnostics: Sequence[Any] = ()
  """Of the steps since the last line of metrics."""

  def sent(self) -> dict[str, int]:
    """Bytes that were sent, and that dense steps would have sent."""
    return {'bytes_sent': self.bytes_sent, 'dense_bytes': self.dense_bytes}


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """The state of a run between two steps."""

  step: int
  params: Any
  opt_state: Any
  progress: Progress
  averaged_over: int | None = None
  """The workers whose states were averaged for another number of them."""
  without_copy: tuple[int, ...] = ()
  """The workers that begin with the mean of the others' states, because theirs
  are lost."""

  def notes(self, identity: dict[str, Any]) -> dict[str, Any]:
    """What is saved about it, apart from the arrays."""
    progress = dataclasses.asdict(self.progress) | {'step': self.step}
    return {'progress': json_files.finite(progress), 'identity': identity}

  def progressed(self, **changes: Any) -> 'Snapshot':
    """The same state with other values in its progress."""
    progress = dataclasses.replace(self.progress, **changes)
    return dataclasses.replace(self, progress=progress)


class Checkpoints:
  """The checkpoints of one run in a folder."""

  def __init__(
    self,
    folder: pathlib.Path,
    config: Config,
    mesh: jax.sharding.Mesh,
    *,
    data: dict[str, Any],
    is_elastic: bool,
    is_local: bool = False,
  ):
    """Opens the folder.

    `data` describes the data and must be equal to resume. So must the number of
    workers unless `is_elastic` or `is_local`, see `gl.Plan`.

    Raises:
      ValueError: if the metadata of a checkpoint are damaged.
    """
    # Orbax logs the errors of its threads, with tracebacks, and raises them.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    self._mesh = mesh
    self._workers = workers = mesh.shape[cluster.WORKER_AXIS]
    self._is_local = is_local
    self._collapse = _OnMesh(gl.collapse, mesh)
    self._expand = _OnMesh(lambda state: gl.expand(state, workers), mesh)
    self._average = _OnMesh(lambda state: _averaged(state, workers), mesh)
    self._identity = described(config, data) | {
      'workers': 'any' if is_elastic else workers
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=config.checkpoint.keep)
    try:
      self._manager = ocp.CheckpointManager(
        folder.absolute(),
        options=options,
        item_names=('state', *_NOTES, _CHECKSUMS),
      )
    except (RecursionError, TypeError, KeyError, AttributeError) as error:
      raise ValueError(
        f'{folder} holds a damaged checkpoint ({_reason(error)}). Delete it to'
        ' resume from the checkpoint before it.'
      ) from error

  def save(self, now: Snapshot) -> Snapshot:
    """Starts saving and returns the state to continue with; frees the old one.

    Raises:
      OSError: if this or an earlier checkpoint could not be written.
      ValueError: if the processes do not hold the same bits.
    """
    collapsed = self._collapse(now.opt_state, now.params)
    free(now.opt_state)
    state = {'params': now.params, 'opt_state': collapsed}
    notes = now.notes(self._identity)
    arrays = fingerprint.of(state)
    agreement.check(state=arrays)
    checksums = {'state': arrays, **_of_notes(notes)}
    with self._writing():
      self._manager.save(
        now.step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          **{k: ocp.args.JsonSave(v) for k, v in notes.items()},
          **{_CHECKSUMS: ocp.args.JsonSave(checksums)},
        ),
      )
    expanded = self._expand(collapsed, now.params)
    return dataclasses.replace(now, opt_state=expanded)

  def latest(self, fresh: Snapshot) -> Snapshot:
    """The newest checkpoint, for which `fresh` is freed, or `fresh`.

    Raises:
      ValueError: if the checkpoint is of another configuration or other data,
        or damaged.
    """
    step = self._manager.latest_step()
    if step is None:
      return fresh
    notes, checksums = self._notes(step)
    expected, before = self._identity, self._workers
    if self._is_local and isinstance(notes['identity']['workers'], int):
      before = notes['identity']['workers']
      expected = expected | {'workers': before}
    check_identity(notes['identity'], expected, self._manager.directory)
    with self._reading(step, 'progress'):
      was = notes['progress'].pop('step')
      progress = Progress(**notes['progress'])
    if was != step:
      raise ValueError(
        f'{self._manager.directory / str(step)} must hold the state after'
        f' step {step}, got that after step {was}. Give the folder its own'
        ' name back, or delete it to resume from the checkpoint before it.'
      )
    collapsed = jax.eval_shape(
      lambda state: gl.collapse(_averaged(state, before)), fresh.opt_state
    )
    places = shardings(collapsed, fresh.params, self._mesh)
    placed = lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    )
    target = {
      'params': jax.tree.map(lambda x: placed(x, x.sharding), fresh.params),
      'opt_state': jax.tree.map(placed, collapsed, places),
    }
    free((fresh.params, fresh.opt_state))
    with self._reading(step, 'state'):
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
      ).state
      arrays = fingerprint.of(restored, checksums['state'])
    agreement.check(restored=arrays)
    with self._reading(step, 'state'):
      _check_checksums(arrays, checksums['state'])
    expand = self._expand if before == self._workers else self._average
    return Snapshot(
      step,
      restored['params'],
      expand(restored['opt_state'], restored['params']),
      progress,
      averaged_over=before if before != self._workers else None,
    )

  def _notes(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON parts of a checkpoint, and its checksums."""
    saved: dict[str, Any] = {}
    for part in (*_NOTES, _CHECKSUMS):
      with self._reading(step, part):
        read = ocp.args.Composite(**{part: ocp.args.JsonRestore()})
        saved[part] = self._manager.restore(step, args=read)[part]
    checksums = saved.pop(_CHECKSUMS)
    with self._reading(step, _CHECKSUMS):
      _check_checksums(
        _of_notes(saved), {part: checksums[part] for part in _NOTES}
      )
    return saved, checksums

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    """Waits until everything is on disk."""
    with self._writing() if kind is None else contextlib.suppress(Exception):
      self._manager.wait_until_finished()
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      raise OSError(
        f'{self._manager.directory}: a checkpoint could not be written'
        f' ({_reason(error)}). The earlier ones are complete; rerun the same'
        ' command to resume from the last of them.'
      ) from error

  @contextlib.contextmanager
  def _reading(self, step: int, part: str) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      folder = self._manager.directory / str(step)
      raise ValueError(
        f'{folder} is damaged ({part}: {_reason(error)}). Delete it to'
        ' resume from the checkpoint before it, or put back a copy of it.'
      ) from error


def free(arrays: Any) -> None:
  """Frees the memory of arrays that are not used any more.

  They are as large as the model, and somebody may still hold them.
  """
  for x in jax.tree.leaves(arrays):
    x.delete()


def _averaged(opt_state: Any, workers: int) -> Any:
  """The state of `workers`, each with the mean of the saved ones."""
  mean = gl.collapse(opt_state, exact=False)
  return gl.expand(mean, workers, exact=False)


class _OnMesh:
  """A function of the state whose result is sharded as the parameters are.

  The function is compiled at the first call, for all that follow.
  """

  def __init__(self, function: Callable[[Any], Any], mesh: jax.sharding.Mesh):
    self._function, self._mesh = function, mesh
    self._compiled: Callable[[Any], Any] | None = None

  def __call__(self, state: Any, params: Any) -> Any:
    if self._compiled is None:
      shapes = jax.eval_shape(self._function, state)
      places = shardings(shapes, params, self._mesh)
      self._compiled = jax.jit(self._function, out_shardings=places)
    return self._compiled(state)


def shardings(state: Any, params: Any, mesh: jax.sharding.Mesh) -> Any:
  """How a state is sharded, given its parameters.

  What every worker has for itself is sharded over the workers, and one mean for
  all of them is replicated.
  """
  axis = cluster.WORKER_AXIS
  specs = gl.state_partition_specs(state, axis, params)

  def place(x: Any, spec: Any) -> jax.sharding.NamedSharding:
    if spec and spec[0] == axis and x.shape[0] % mesh.shape[axis]:
      spec = jax.sharding.PartitionSpec(None, *spec[1:])
    return jax.sharding.NamedSharding(mesh, spec)

  return jax.tree.map(place, state, specs)


def _of_notes(notes: dict[str, Any]) -> dict[str, int]:
  """Their checksums, which writing and reading do not change."""
  return {
    part: fingerprint.of_text(json.dumps(value, sort_keys=True))
    for part, value in notes.items()
  }


def _check_checksums(now: Any, saved: Any) -> None:
  """Raises a ValueError if checksums are not those that were saved."""
  if differing := differences.between(now, saved):
    names = (name.removesuffix('.whole') for name in differing)
    raise ValueError(f'not as it was written: {", ".join(names)}')


def described(config: Config, data: dict[str, Any]) -> dict[str, Any]:
  """What has to be equal for a run to resume on any number of workers."""
  return {
    'config': identity(config),
    # Further held-out texts may change.
    'data': {k: v for k, v in data.items() if k != 'held_out'},
  }


def identity(config: Config) -> dict[str, Any]:
  """The part of a configuration that must be equal to resume a run."""
  fields = dataclasses.asdict(config)
  # The description of the data identifies these by their content.
  for key in ('data_dir', 'files', 'tokenizer', 'held_out'):
    del fields['data'][key]
  del fields['model']['pretrained']
  return {key: value for key, value in fields.items() if key not in _FREE}


def check_identity(saved: Any, now: Any, where: Any) -> None:
  """Raises if a checkpoint belongs to something else, naming what differs."""
  saved, now = (
    x | {'config': {k: v for k, v in x['config'].items() if k != _ROUNDS}}
    for x in (saved, now)
  )
  differing = differences.between(saved, now)
  if keys := differences.unknown_keys(saved['config'], now['config']):
    raise ValueError(
      f'{where} holds a run of another version of this trainer: the keys'
      f' {", ".join(keys)} are only in one of them. Resume with the version'
      ' that began it, or use another --workdir.'
    )
  if [*differing] == ['workers']:
    was, is_now = differing['workers']
    raise ValueError(
      f'{where} holds the state of {was} workers, got {is_now}: each of them'
      ' has a state of its own in this configuration, so resume with as many'
      ' workers as before.'
    )
  if differing:
    changes = '; '.join(
      f'{key} was {was!r} and is {is_now!r}'
      for key, (was, is_now) in differing.items()
    )
    raise ValueError(
      f'{where} holds a run of another configuration: {changes}. Use another'
      ' --workdir, or set these back.'
    )


def _reason(error: Exception) -> str:
  """The first line of what went wrong, without paths and places in C++."""
  text = (str(error) or type(error).__name__).splitlines()[0]
  text = re.sub(r' \[source locations=.*|"[^"]*"(: )?', '', text)
  return textwrap.shorten(text, 200, placeholder=' ...')
