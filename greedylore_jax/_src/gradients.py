"""A worker's own gradients, and their mean over micro-batches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax._src import checks
from greedylore_jax._src.types import Array, AxisName, Function, Params, PyTree
from greedylore_jax._src.wire import worker_axes


def value_and_local_grad(
  loss_fn: Function, axis_name: AxisName, has_aux: bool = False
) -> Function:
  """`jax.value_and_grad`, but each worker gets the gradient of its own loss.

  Inside `jax.shard_map`, `jax.grad` sums the gradient of replicated parameters
  over the mesh: an implicit dense all-reduce that leaves nothing to compress.
  This function does not. Under `jax.pmap`, `jax.vmap` and with
  `axis_name=None` the two are the same.

  Args:
    loss_fn: `loss_fn(params, *args)` -> scalar loss (the mean over this
      worker's examples, without `pmean` or `psum`), or (loss, aux) with
      `has_aux`.
    axis_name: mesh axis, or tuple of all axes, over which the batch is divided.
    has_aux: as for `jax.value_and_grad`.

  Returns:
    A function of (params, *args) giving (value, gradient), both one per worker.

  Raises:
    TypeError: when traced, if parameters are not floating-point numbers, or
      the loss is not a scalar, or has auxiliary values without `has_aux`.
    ValueError: when traced inside `jax.shard_map`, if the loss is already
      averaged over the axis, or differs over axes that are not named.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2)
    >>> grad_fn = gl.value_and_local_grad(loss_fn, axis_name=None)
    >>> loss, grad = grad_fn(jnp.ones(3), jnp.eye(3))
  """

  @functools.wraps(loss_fn)
  def checked_fn(params: Params, *args: Any, **kwargs: Any) -> Any:
    value = loss_fn(params, *args, **kwargs)
    _check_value(value, has_aux)
    return value

  grad_fn = jax.value_and_grad(checked_fn, has_aux=has_aux)

  @functools.wraps(loss_fn)
  def local_grad_fn(params: Params, *args: Any, **kwargs: Any) -> Any:
    worker_axes.num_workers(axis_name)
    _check_floating(params)
    local = worker_axes.local(params, axis_name)
    value, grads = grad_fn(local, *args, **kwargs)
    _check_loss(value[0] if has_aux else value, local, axis_name)
    return value, grads

  return local_grad_fn


def _check_floating(params: Params) -> None:
  """Raises if a parameter has no gradient."""
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.inexact):
      raise TypeError(
        f'params must be floating-point numbers, got {dtype} at'
        f' {checks.path_name(path)!r}: pass what is not trained as another'
        ' argument of loss_fn.'
      )


def _check_value(value: Any, has_aux: bool) -> None:
  """Raises unless loss_fn returned a scalar, or (scalar, aux)."""
  is_pair = isinstance(value, tuple) and len(value) == 2
  if has_aux and not is_pair:
    raise TypeError(
      f'With has_aux=True, loss_fn must return (loss, aux), got {_kind(value)}.'
    )
  loss = value[0] if has_aux else value
  is_number = isinstance(loss, int | float)
  if not is_number and getattr(loss, 'shape', None) != ():
    remedy = 'take its mean over the examples.'
    if is_pair and not has_aux:
      remedy = 'pass has_aux=True if it returns (loss, aux).'
    raise TypeError(
      f'loss_fn must return a scalar, got {_kind(loss)}: {remedy}'
    )


def _kind(value: Any) -> str:
  """What a value is, in a few words."""
  if isinstance(value, jax.Array):
    return f'an array of shape {value.shape}'
  return f'a {type(value).__name__}'


def _check_loss(loss: Array, params: Params, axis_name: AxisName) -> None:
  """Raises if JAX's types show that the gradient is not this worker's own."""
  if axes := worker_axes.missing_axes(loss, axis_name):
    raise ValueError(
      'loss_fn must return the loss of one worker, got one that is already'
      f' averaged or summed over {axes}: its gradients would be too small by'
      ' the number of workers. Remove the pmean or psum from loss_fn and'
      " divide by the number of the worker's own examples."
    )
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    summed = worker_axes.varying_axes(loss) - worker_axes.varying_axes(x)
    if summed:
      others = sorted(summed)
      every = (*worker_axes.names(axis_name), *others)
      raise ValueError(
        f'The loss differs over the mesh axes {others}, which'
        f' axis_name={axis_name!r} does not name, so the gradient of'
        f' {checks.path_name(path)!r} would be summed over them: use'
        f' gl.value_and_local_grad(loss_fn, {every}).'
      )


def accumulate(grad_fn: Function, steps: int) -> Function:
  """The mean value and gradient over micro-batches, one after the other.

  Returns:
    A function of (params, batch, args, key): `args` are passed on as they are,
    and every micro-batch gets its own key unless `key` is None.
  """

  def one(params: Params, batch: PyTree, args: Any, key: Any) -> Any:
    return grad_fn(params, batch, *args, *([] if key is None else [key]))

  if steps == 1:
    return one

  def accumulated(params: Params, batch: PyTree, args: Any, key: Any) -> Any:
    cut = lambda x: x.reshape(steps, x.shape[0] // steps, *x.shape[1:])
    keys = None if key is None else jax.random.split(key, steps)
    micro = jax.tree.map(cut, batch), keys
    part: Function = lambda i: jax.tree.map(lambda x: x[i], micro)
    grads_of: Function = lambda x: one(params, x[0], args, x[1])
    first = grads_of(part(0))

    def add(total: PyTree, x: PyTree) -> tuple[PyTree, None]:
      return jax.tree.map(jnp.add, total, widened(grads_of(x))), None

    (value, grads), _ = jax.lax.scan(add, widened(first), part(slice(1, None)))
    value = jax.tree.map(lambda x: x / steps, value)
    as_first = lambda x, one: (x / steps).astype(jnp.result_type(one))
    return value, jax.tree.map(as_first, grads, first[1])

  return accumulated


def widened(tree: PyTree) -> PyTree:
  """The tree in at least float32, in which sums are exact enough."""
  widen = lambda x: jnp.asarray(
    x, jnp.promote_types(jnp.result_type(x), jnp.float32)
  )
  return jax.tree.map(widen, tree)
