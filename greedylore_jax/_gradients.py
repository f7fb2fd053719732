"""A worker's own gradients, and their mean over micro-batches."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from greedylore_jax import _axes


def value_and_local_grad(
    loss_fn: Callable[..., Any],
    axis_name: _axes.AxisName,
    has_aux: bool = False,
) -> Callable[..., Any]:
  """`jax.value_and_grad`, but each worker gets the gradient of its own loss.

  Inside `jax.shard_map`, `jax.grad` sums the gradient of replicated parameters
  over the mesh by itself: a dense all-reduce that nobody sees, and then nothing
  is left to compress. This one does not. Under `jax.pmap`, `jax.vmap` and with
  `axis_name=None` the two are the same.

  Args:
    loss_fn: `loss_fn(params, *args)` -> scalar loss (the mean over this
      worker's examples), or (loss, aux) with `has_aux`.
    axis_name: mesh axis (or tuple of axes) of the workers.
    has_aux: as for `jax.value_and_grad`.

  Returns:
    A function of (params, *args) giving (value, gradient), both one per worker.

  Example:
    >>> import greedylore_jax as gl, jax.numpy as jnp
    >>> loss_fn = lambda w, x: jnp.mean((x @ w) ** 2)
    >>> grad_fn = gl.value_and_local_grad(loss_fn, axis_name=None)
    >>> loss, grad = grad_fn(jnp.ones(3), jnp.eye(3))
  """
  grad_fn = jax.value_and_grad(loss_fn, has_aux=has_aux)

  @functools.wraps(loss_fn)
  def local_grad_fn(params, *args, **kwargs):
    _axes.num_workers(axis_name)
    return grad_fn(_axes.local(params, axis_name), *args, **kwargs)

  return local_grad_fn


def accumulate(grad_fn: Callable[..., Any], steps: int) -> Callable[..., Any]:
  """The mean value and gradient over micro-batches, one after the other."""
  if steps == 1:
    return grad_fn

  def accumulated(params, batch):
    cut = lambda x: x.reshape(steps, x.shape[0] // steps, *x.shape[1:])
    micro = jax.tree.map(cut, batch)
    first = grad_fn(params, jax.tree.map(lambda x: x[0], micro))

    def add(total, part):
      return jax.tree.map(jnp.add, total, wide(grad_fn(params, part))), None

    rest = jax.tree.map(lambda x: x[1:], micro)
    (value, grads), _ = jax.lax.scan(add, wide(first), rest)
    value = jax.tree.map(lambda x: x / steps, value)
    as_first = lambda x, one: (x / steps).astype(one.dtype)
    return value, jax.tree.map(as_first, grads, first[1])

  return accumulated


def wide(tree: Any) -> Any:
  """In at least float32, in which sums are exact enough."""
  widen = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return jax.tree.map(widen, tree)
