"""TSR-Adam: an optimizer whose moments live where the gradients are sent."""

from collections.abc import Callable
import functools
from typing import Any
from typing import Literal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from greedylore_jax._src import checks as _checks
from greedylore_jax._src import transform as _compress
from greedylore_jax._src.engine import leaf as _leaves
from greedylore_jax._src.engine import policy as _policy
from greedylore_jax._src.state import compress_state as _state
from greedylore_jax._src.wire import worker_axes as _axes
from greedylore_jax.compressors import tsr


class TSRAdamState(NamedTuple):
  """State of the projected part of `tsr_adam`; equal on all workers.

  Attributes:
    compress: a `CompressState` without errors, whose memory holds the bases.
    adam: moments of the cores, [k, r, r] for a compressed leaf, and of the
      gradients of the others.
  """

  compress: _state.CompressState
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
    NaN and the moments stay as they were: to skip such a step, chain
    `optax.apply_if_finite(optax.identity(), n)` behind it.

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
    _checks.check_integer('embedding_rank', embedding_rank)
    _checks.check_integer(
      'embedding_update_interval', embedding_update_interval
    )
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
  decay = optax.identity()
  if not isinstance(weight_decay, int | float) or weight_decay:
    decay = optax.add_decayed_weights(weight_decay, is_matrix)
  return optax.chain(
    _adam_on_cores(
      send,
      _policy.Policy(rules, **settings),
      clip,
      optax.scale_by_adam(b1, b2, eps),
      rotate_moments,
      scale,
    ),
    decay,
    optax.scale_by_learning_rate(learning_rate),
  )


def _adam_on_cores(
  send: optax.GradientTransformationExtraArgs,
  policy: _policy.Policy,
  clip: optax.GradientTransformation,
  adam: optax.GradientTransformation,
  rotate_moments: bool,
  scale: float,
) -> optax.GradientTransformation:
  """Local gradients in, scale U D V^T of their mean out."""

  def init_fn(params):
    state = send.init(params)
    cores = _per_leaf(_core, policy.leaves(params), params, state.memory)
    return TSRAdamState(state, adam.init(cores))

  def update_fn(updates, state, params=None, **extra):
    leaves = policy.leaves(updates)
    means, sent = send.update(updates, state.compress, params, **extra)
    moments = state.adam
    if rotate_moments:
      turned = lambda moment, power: _per_leaf(
        functools.partial(_rotated, power),
        leaves,
        moment,
        state.compress.memory,
        sent.memory,
      )
      moments = moments._replace(
        mu=turned(moments.mu, 1), nu=turned(moments.nu, 2)
      )
    cores = _per_leaf(_core, leaves, means, sent.memory)
    cores, _ = clip.update(cores, optax.EmptyState())
    steps, moments = adam.update(cores, moments)
    # A step that is not finite is not counted and moves nothing.
    finite = sent.count != state.compress.count
    keep = lambda new, old: jnp.where(finite, new, old)
    lifted = functools.partial(_lifted, scale)
    moments = jax.tree.map(keep, moments, state.adam)
    steps = jax.tree.map(
      lambda step, mean: jnp.where(finite, step, jnp.nan).astype(mean.dtype),
      _per_leaf(lifted, leaves, steps, sent.memory),
      means,
    )
    return steps, TSRAdamState(sent, moments)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _per_leaf(
  function: Callable[..., Any],
  leaves: list[_leaves.Leaf],
  tree: Any,
  *trees: Any,
) -> Any:
  """The tree with function(leaf, x, *what other trees have in its place)."""
  treedef: Any = jax.tree.structure(tree)
  columns = map(treedef.flatten_up_to, (tree, *trees))
  rows = zip(leaves, *columns, strict=True)
  return treedef.unflatten([function(*row) for row in rows])


def _core(leaf: _leaves.Leaf, mean: jax.Array, memory: Any) -> jax.Array:
  """C in the place of a compressed leaf."""
  del leaf
  return memory.core if isinstance(memory, tsr.TSRMemory) else mean


def _lifted(
  scale: float, leaf: _leaves.Leaf, d: jax.Array, memory: Any
) -> jax.Array:
  """Scale U D V^T in the place of a core D."""
  if not isinstance(memory, tsr.TSRMemory) or leaf.matrices is None:
    return d
  return scale * leaf.matrices.join(memory.u @ d @ memory.v.mT)


def _rotated(
  power: int, leaf: _leaves.Leaf, moment: jax.Array, old: Any, new: Any
) -> jax.Array:
  """A moment in new bases, if they are not the old ones."""
  del leaf
  if not isinstance(new, tsr.TSRMemory):
    return moment
  left, right = new.u.mT @ old.u, old.v.mT @ new.v
  turned = left**power @ moment @ right**power
  return jnp.where(jnp.any(new.u != old.u), turned, moment)
