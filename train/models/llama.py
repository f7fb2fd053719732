"""A LLaMA in Flax NNX, used as a pure tree of parameters.

A block is x + attention(norm(x)), then x + feed_forward(norm(x)); the norms are
RMSNorm, the positions rotary, the feed-forward SwiGLU; there are no biases, and
the output head is not tied to the embedding. Every projection is one matrix
[inputs, outputs], which is what a compressor of gradients wants to see.

The parameters are a nested dict of float32 arrays:

  embedding                                  [vocab_size, width]
  blocks/I/attention_norm                    [width]
  blocks/I/attention/{query,key,value,output}
                                             [width, width]
  blocks/I/feed_forward_norm                 [width]
  blocks/I/feed_forward/{gate,up}            [width, feed_forward]
  blocks/I/feed_forward/down                 [feed_forward, width]
  norm                                       [width]
  head                                       [width, vocab_size]

With `model.scan` the blocks are one, `blocks/...`, whose arrays have one more
axis in front, [layers, ...], and XLA compiles it once for all layers.

References:
  Touvron et al., LLaMA: Open and Efficient Foundation Language Models,
  arXiv:2302.13971, 2023.
  Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding,
  arXiv:2104.09864, 2021, equation 34.
"""

from collections.abc import Callable
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from train.config import machines
from train.config.schema import Model

Params = dict[str, Any]
_STANDARD_DEVIATION = 0.02
_NORM_EPS = 1e-6
_ROTARY_BASE = 10_000.0


class Attention(nnx.Module):
  """Causal self-attention of several heads, with rotary positions."""

  def __init__(self, model: Model, rngs: nnx.Rngs):
    self.heads = model.heads
    square = model.width, model.width
    self.query = _matrix(rngs, square)
    self.key = _matrix(rngs, square)
    self.value = _matrix(rngs, square)
    self.output = _matrix(rngs, square, _residual_scale(model))

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] -> [batch, time, width]."""
    query, key, value = (
      self._split(_project(x, w)) for w in (self.query, self.key, self.value)
    )
    query = query / math.sqrt(query.shape[-1])
    mixed = _attend(rotate(query), rotate(key), value)
    return _project(mixed.swapaxes(1, 2).reshape(x.shape), self.output)

  def _split(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] -> [batch, heads, time, channels]."""
    batch, time, width = x.shape
    # Heads go before time at once: products of matrices whose batch axes do not
    # lead are slower on a CPU.
    x = x.reshape(batch, time, self.heads, width // self.heads)
    return x.swapaxes(1, 2)


class FeedForward(nnx.Module):
  """SwiGLU: down(silu(gate(x)) * up(x))."""

  def __init__(self, model: Model, rngs: nnx.Rngs):
    self.gate = _matrix(rngs, (model.width, model.feed_forward))
    self.up = _matrix(rngs, (model.width, model.feed_forward))
    self.down = _matrix(
      rngs, (model.feed_forward, model.width), _residual_scale(model)
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] -> [batch, time, width]."""
    inner = jax.nn.silu(_project(x, self.gate)) * _project(x, self.up)
    return _project(inner, self.down)


class Block(nnx.Module):
  """Attention and feed-forward, each normed before and added to its input."""

  def __init__(self, model: Model, rngs: nnx.Rngs):
    self.attention_norm = _gain(model)
    self.attention = Attention(model, rngs)
    self.feed_forward_norm = _gain(model)
    self.feed_forward = FeedForward(model, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] -> [batch, time, width]."""
    x = x + self.attention(_rms_norm(x, self.attention_norm))
    return x + self.feed_forward(_rms_norm(x, self.feed_forward_norm))


class Llama(nnx.Module):
  """The whole model, from tokens to logits."""

  def __init__(self, model: Model, vocab_size: int, rngs: nnx.Rngs):
    self.model = model
    self.embedding = _matrix(rngs, (vocab_size, model.width))
    one = lambda rngs: Block(model, rngs)
    blocks: Any
    if model.scan:
      blocks = nnx.split_rngs(splits=model.layers)(nnx.vmap(one))(rngs)
    else:
      blocks = nnx.Dict({str(i): one(rngs) for i in range(model.layers)})
    self.blocks = blocks
    self.norm = _gain(model)
    self.head = _matrix(rngs, (model.width, vocab_size))

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """[batch, time] int -> logits [batch, time, vocab_size] float32."""
    x = jnp.take(self.embedding[...], tokens, axis=0).astype(self.model.dtype)
    x = self._apply_blocks(_divided(x))
    # Rows of logits are not sharded: XLA crashes when it picks labels' logits.
    logits = _divided(_project(_rms_norm(x, self.norm), self.head))
    return logits.astype(jnp.float32)

  def _apply_blocks(self, x: jax.Array) -> jax.Array:
    """[batch, time, width] -> [batch, time, width]."""
    call = nnx.remat(Block.__call__) if self.model.remat else Block.__call__
    apply = lambda block, x: _divided(call(block, x))
    if self.model.scan:
      graph, layers = nnx.split(self.blocks)
      step = lambda x, layer: (apply(nnx.merge(graph, layer), x), None)
      return jax.lax.scan(step, x, layers)[0]
    # By number, as a merged Dict is in the order of its sorted keys, where '10'
    # comes before '2'.
    for i in range(self.model.layers):
      x = apply(self.blocks[str(i)], x)
    return x


def init(model: Model, vocab_size: int, seed: int) -> Params:
  """Initial parameters, as the module describes; equal seeds give equal ones.

  Matrices are normal with standard deviation 0.02, divided by sqrt(2 * layers)
  for the two that write to the residual stream; gains are 1.
  """
  if vocab_size < 1:
    raise ValueError(f'vocab_size must be at least 1, got {vocab_size!r}.')
  # A key and not a number, as Rngs would not take a traced seed.
  rngs = nnx.Rngs(jax.random.key(seed))
  return nnx.to_pure_dict(nnx.state(Llama(model, vocab_size, rngs)))


def make_apply(
  model: Model, vocab_size: int
) -> Callable[[Params, jax.Array], jax.Array]:
  """Returns the forward pass of `init`'s parameters as a pure function.

  It takes tokens, int [batch, time], and returns logits, float32 [batch, time,
  vocab_size]. A token of vocab_size or more makes its sequence NaN.
  """
  graph, _ = nnx.split(
    nnx.eval_shape(lambda: Llama(model, vocab_size, nnx.Rngs(0)))
  )
  return lambda params, tokens: nnx.merge(graph, params)(tokens)


def make_loss(
  model: Model, vocab_size: int
) -> Callable[[Params, jax.Array], jax.Array]:
  """Returns the mean cross-entropy of the next token as a pure function.

  It takes a batch, int [sequences, time + 1], and returns nats per token.
  Tracing it with a batch of another shape or type raises a ValueError.
  """
  apply = make_apply(model, vocab_size)

  def loss_fn(params: Params, batch: jax.Array) -> jax.Array:
    _require_batch(batch)
    logits = apply(params, batch[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch[:, 1:]
    )
    return jnp.mean(losses)

  return loss_fn


def rotate(x: jax.Array) -> jax.Array:
  """Rotary positions of x, [batch, heads, time, channels].

  The pair of channels (j, j + channels / 2) at time t turns by the angle
  t * 10000^(-2 j / channels), so that the product of a query and a key depends
  on the difference of their times only.
  """
  time, channels = x.shape[-2:]
  speeds = _ROTARY_BASE ** (-jnp.arange(0, channels, 2) / channels)
  angles = jnp.outer(jnp.arange(time), speeds)[None, None]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return turned.astype(x.dtype)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
  """Three [batch, heads, time, channels] -> one, query scaled already."""
  times = jnp.arange(query.shape[-2])
  visible = times[:, None] >= times[None, :]
  scores = (query @ key.mT).astype(jnp.float32)
  scores = jnp.where(visible[None, None], scores, -jnp.inf)
  highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - highest)
  # Divided after the product with the values: the division is then of a smaller
  # array, and no divided weights are kept for the backward pass.
  total = jnp.sum(weights, axis=-1, keepdims=True)
  mixed = weights.astype(value.dtype) @ value
  return (mixed / total).astype(value.dtype)


def _rms_norm(x: jax.Array, gain: nnx.Param) -> jax.Array:
  """[batch, time, width] -> the same, of mean square 1 times gain [width]."""
  y = x.astype(jnp.float32)
  mean_square = jnp.mean(y * y, axis=-1, keepdims=True)
  y = y * jax.lax.rsqrt(mean_square + _NORM_EPS) * gain[...][None, None]
  return y.astype(x.dtype)


def _project(x: jax.Array, matrix: nnx.Param) -> jax.Array:
  """[batch, time, a] by [a, b] -> [batch, time, b], in the type of x."""
  # Flat, as with batch axes a gradient takes a fifth longer on a CPU.
  flat = x.reshape(-1, x.shape[-1]) @ matrix[...].astype(x.dtype)
  return flat.reshape(*x.shape[:-1], -1)


def _divided(x: jax.Array) -> jax.Array:
  """Activations, their sequences divided over the devices of a worker."""
  if machines.FSDP not in jax.sharding.get_abstract_mesh().auto_axes:
    return x
  spec = jax.sharding.PartitionSpec(machines.FSDP)
  return jax.lax.with_sharding_constraint(x, spec)


def _matrix(
  rngs: nnx.Rngs, shape: tuple[int, int], scale: float = 1.0
) -> nnx.Param:
  initializer = nnx.initializers.normal(_STANDARD_DEVIATION * scale)
  return nnx.Param(initializer(rngs.params(), shape, jnp.float32))


def _gain(model: Model) -> nnx.Param:
  return nnx.Param(jnp.ones(model.width, jnp.float32))


def _residual_scale(model: Model) -> float:
  """For what adds to the stream, 2 * layers times: its variance stays put."""
  return 1 / math.sqrt(2 * model.layers)


def _require_batch(batch: jax.Array) -> None:
  shape, dtype = jnp.shape(batch), jnp.result_type(batch)
  integer = jnp.issubdtype(dtype, jnp.integer)
  if len(shape) != 2 or shape[1] < 2 or not integer:
    raise ValueError(
      'a batch is integers [sequences, time + 1] with time at least 1, got'
      f' {dtype}{list(shape)}.'
    )
