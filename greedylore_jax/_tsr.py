"""TSR-Adam: an optimizer whose moments live where the gradients are sent."""

from collections.abc import Callable
from typing import Any
from typing import Literal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax import _axes
from greedylore_jax import _compress
from greedylore_jax import _policy
from greedylore_jax.compressors import tsr


class TSRAdamState(NamedTuple):
  """State of the projected part of `tsr_adam`; equal on all workers.

  Attributes:
    compress: a `CompressState` without errors, whose memory holds the bases.
    adam: moments of the cores, [k, r, r] for a compressed leaf, and of the
      gradients of the others.
  """

  compress: _compress.CompressState
  adam: optax.ScaleByAdamState


def tsr_adam(
    learning_rate: float | Callable[[jax.Array], Any],
    rank: int,
    axis_name: _axes.AxisName,
    *,
    embedding_rank: int | None = None,
    update_interval: int = 100,
    embedding_update_interval: int = 2,
    embeddings: str = 'embed',
    oversampling: int = 5,
    power_iterations: int = 1,
    average: Literal['gradients', 'bases'] = 'gradients',
    rotate_moments: bool = False,
    scale: float = 1.0,
    clip_norm: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    min_compression_rate: float = 1.0,
    weight_dimension_numbers: Any = None,
    seed: int = 0,
) -> optax.GradientTransformation:
  """TSR-Adam: local gradients in, steps of Adam on r x r cores out.

  Only the cores C = mean_i U^T G_i V travel, and both moments are of their
  size; with m, v those of Adam and bias correction,

    D = m / (sqrt(v) + eps),   W <- W - learning_rate (scale U D V^T + decay W).

  What lies outside of the bases is not sent at all: there is no error feedback.
  `TSR` describes the refresh. Leaves that are not matrices are averaged whole
  and take plain steps of Adam. This is the optimizer, not a link before one.

  Args:
    learning_rate: a number or a schedule.
    rank: r, of the cores. Lower sends and keeps less and sees less.
    axis_name: mesh axis (or tuple of axes) of the workers; None for one.
    embedding_rank: r of the leaves that `embeddings` matches; None treats them
      like the others.
    update_interval: steps from one refresh of the bases to the next.
    embedding_update_interval: the same for embeddings.
    embeddings: a regular expression, searched for in paths.
    oversampling: see `TSR`.
    power_iterations: see `TSR`.
    average: see `TSR`; 'bases' is the paper's way.
    rotate_moments: carry the moments into the new bases at a refresh, m as
      A m B with A = U_new^T U_old and B = V_old^T V_new, and v with the squares
      of A and B. The paper leaves them as they are.
    scale: of the steps of compressed leaves. Higher steps further.
    clip_norm: largest global norm of what is sent, before the moments; None is
      off.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: floor of the denominator.
    weight_decay: of leaves with at least two axes.
    min_compression_rate: as for `compress_gradients`.
    weight_dimension_numbers: as for `compress_gradients`.
    seed: of the sketches.

  Returns:
    An `optax.GradientTransformation`. Its `update` needs the parameters if
    there is weight decay. If anything received is not finite, the updates are
    NaN and the moments stay as they were.

  Raises:
    ValueError, TypeError: as `compress_gradients`.

  Example:
    >>> import greedylore_jax as gl
    >>> tx = gl.tsr_adam(
    ...     0.01, rank=256, axis_name='data', embedding_rank=64, scale=0.5)

  References:
    TSR-Adam, arXiv 2602.08007 (2026), Algorithm 1.
  """
  method = lambda rank, interval: tsr.TSR(
      rank, interval, oversampling, power_iterations, average
  )
  rules = [('', method(rank, update_interval))]
  if embedding_rank is not None:
    of_embeddings = method(embedding_rank, embedding_update_interval)
    rules.insert(0, (embeddings, of_embeddings))
  settings: dict[str, Any] = {
      'error_feedback': False,
      'min_compression_rate': min_compression_rate,
      'weight_dimension_numbers': weight_dimension_numbers,
  }
  send = _compress.compress_gradients(rules, axis_name, seed=seed, **settings)
  clip = optax.identity()
  if clip_norm is not None:
    clip = optax.clip_by_global_norm(clip_norm)
  is_matrix = lambda params: jax.tree.map(lambda x: jnp.ndim(x) >= 2, params)
  decay = optax.add_decayed_weights(weight_decay, is_matrix)
  return optax.chain(
      _adam_on_cores(
          send, _policy.Policy(rules, **settings), clip,
          optax.scale_by_adam(b1, b2, eps), rotate_moments, scale,
      ),
      decay if weight_decay else optax.identity(),
      optax.scale_by_learning_rate(learning_rate),
  )  # fmt: skip


def _adam_on_cores(
    send: optax.GradientTransformation,
    policy: _policy.Policy,
    clip: optax.GradientTransformation,
    adam: optax.GradientTransformation,
    rotate_moments: bool,
    scale: float,
) -> optax.GradientTransformation:
  """Local gradients in, scale U D V^T of their mean out."""

  def init_fn(params):
    state = send.init(params)
    return TSRAdamState(state, adam.init(_cores(params, state.memory)))

  def update_fn(updates, state, params=None):
    del params
    leaves = policy.leaves(updates)
    means, sent = send.update(updates, state.compress)
    moments = state.adam
    if rotate_moments:
      moments = moments._replace(
          mu=_rotate(moments.mu, leaves, state.compress, sent.memory, 1),
          nu=_rotate(moments.nu, leaves, state.compress, sent.memory, 2),
      )
    cores, _ = clip.update(_cores(means, sent.memory), optax.EmptyState())
    steps, moments = adam.update(cores, moments)
    # A step that is not finite is not counted and moves nothing.
    finite = sent.count != state.compress.count
    keep = lambda new, old: jnp.where(finite, new, old)
    moments = jax.tree.map(keep, moments, state.adam)
    steps = jax.tree.map(
        lambda step, mean: jnp.where(finite, step, jnp.nan).astype(mean.dtype),
        _lift(steps, leaves, sent.memory, scale),
        means,
    )
    return steps, TSRAdamState(sent, moments)

  return optax.GradientTransformation(init_fn, update_fn)


def _is_memory(x: Any) -> bool:
  return isinstance(x, tsr.TSRMemory | optax.MaskedNode)


def _cores(tree: Any, memory: Any) -> Any:
  """The tree with the cores in the place of compressed leaves."""
  pick = lambda m, x: m.core if isinstance(m, tsr.TSRMemory) else x
  return jax.tree.map(pick, memory, tree, is_leaf=_is_memory)


def _lift(cores: Any, leaves: Any, memory: Any, scale: float) -> Any:
  """Scale U D V^T in the place of every core D."""
  remaining = iter(leaves)

  def one(m, d):
    leaf = next(remaining)
    if not isinstance(m, tsr.TSRMemory):
      return d
    return scale * leaf.matrices.join(m.u @ d @ m.v.mT)

  return jax.tree.map(one, memory, cores, is_leaf=_is_memory)


def _rotate(
    moments: Any, leaves: Any, before: Any, memory: Any, power: int
) -> Any:
  """The moments in new bases, where a basis was refreshed in this step."""
  remaining = iter(leaves)

  def one(new, old, m):
    leaf = next(remaining)
    if not isinstance(new, tsr.TSRMemory):
      return m
    refreshed = before.count % leaf.compressor.update_interval == 0
    left, right = new.u.mT @ old.u, old.v.mT @ new.v
    turned = left**power @ m @ right**power
    return jnp.where(refreshed, turned, m)

  return jax.tree.map(one, memory, before.memory, moments, is_leaf=_is_memory)
