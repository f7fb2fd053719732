"""BERT and RoBERTa in Flax NNX with one layer on top, used as pure trees.

A layer is x = norm(x + attention(x)), then norm(x + feed_forward(x)): the norms
come after the sums and are LayerNorms, the feed-forward is down(gelu(up(x)))
with the exact GELU, everything has biases. The first token's vector goes
through a tanh layer and the head.

Parameters, a nested dict of float32 arrays:

  embedding/{token,position,segment}      [vocab_size, width], [positions, ...]
  layers/I/attention/{query,key,value,output}/kernel     [width, width]
  layers/I/feed_forward/{up,down}/kernel  [width, feed_forward] and back
  pooler/kernel, head/kernel              [width, width], [width, outputs]
  .../bias next to every kernel           [outputs of the kernel]
  embedding/norm, layers/I/{attention,feed_forward}_norm
                                          scale and bias, [width]

References:
  Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for
  Language Understanding, arXiv 1810.04805, 2018.
  Liu et al., RoBERTa: A Robustly Optimized BERT Pretraining Approach, arXiv
  1907.11692, 2019.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from train.models import rules

Params = dict[str, Any]
# What the papers leave dense.
ENDS = r'^(embedding/(token|position|segment)|(pooler|head)/kernel)$'
_STANDARD_DEVIATION = 0.02


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What tells two encoders apart."""

  vocab_size: int
  width: int
  layers: int
  heads: int
  feed_forward: int
  positions: int
  """Rows of the table of positions."""
  segments: int = 2
  first_position: int = 0
  """The row of a sentence's first token: RoBERTa counts from 2."""
  norm_eps: float = 1e-12
  dtype: str = 'float32'
  """Of activations and matrix products."""


class Dropout:
  """Leaves numbers out at random, every example's by a key of its own.

  So it does not matter which worker has the example.
  """

  def __init__(self, rate: float, keys: jax.Array):
    """Args: the share that is left out; a key per example, [rows]."""
    self._keep, self._keys, self._places = 1 - rate, keys, 0

  def __call__(self, x: jax.Array) -> jax.Array:
    """[rows, ...] -> the same, of the same mean."""
    self._places += 1
    mask = lambda key, row: jax.random.bernoulli(
      jax.random.fold_in(key, self._places), self._keep, row.shape
    )
    kept = jax.vmap(mask)(self._keys, x)
    return jnp.where(kept, x / self._keep, jnp.zeros_like(x))


# What a layer does to its numbers while it is not trained.
Drop = Callable[[jax.Array], jax.Array]


def _nothing(x: jax.Array) -> jax.Array:
  return x


class Attention(nnx.Module):
  """Self-attention of several heads over all tokens but the filling."""

  def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
    self.heads = sizes.heads
    square = lambda: _linear(rngs, sizes, sizes.width, sizes.width)
    self.query, self.key, self.value = square(), square(), square()
    self.output = square()

  def __call__(self, x: jax.Array, visible: jax.Array, drop: Drop) -> jax.Array:
    """[rows, time, width] and [rows, time] -> [rows, time, width]."""
    query, key, value = (
      self._split(_project(x, layer))
      for layer in (self.query, self.key, self.value)
    )
    query = query / math.sqrt(query.shape[-1])
    scores = (query @ key.mT).astype(jnp.float32)
    scores = jnp.where(visible[:, None, None], scores, -jnp.inf)
    weights = drop(jax.nn.softmax(scores, axis=-1)).astype(value.dtype)
    mixed = (weights @ value).swapaxes(1, 2).reshape(x.shape)
    return _project(mixed, self.output)

  def _split(self, x: jax.Array) -> jax.Array:
    """[rows, time, width] -> [rows, heads, time, channels]."""
    rows, time, width = x.shape
    x = x.reshape(rows, time, self.heads, width // self.heads)
    return x.swapaxes(1, 2)


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, x Phi(x).

  It states its derivative: inside `shard_map`, jax 0.12 cannot differentiate
  `jax.lax.erfc`, on which `jax.nn.gelu` is built.
  """
  return jax.nn.gelu(x, approximate=False)


@_gelu.defjvp
def _gelu_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
  """d(x Phi(x)) / dx = Phi(x) + x phi(x)."""
  ((x,), (dx,)) = primals, tangents
  cumulative = jax.lax.erfc(-x * math.sqrt(0.5)) / 2
  density = jnp.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
  return _gelu(x), (cumulative + x * density) * dx


class FeedForward(nnx.Module):
  """down(gelu(up(x)))."""

  def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
    self.up = _linear(rngs, sizes, sizes.width, sizes.feed_forward)
    self.down = _linear(rngs, sizes, sizes.feed_forward, sizes.width)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[rows, time, width] -> [rows, time, width]."""
    inner = _gelu(_project(x, self.up))
    return _project(inner, self.down)


class Layer(nnx.Module):
  """Attention and feed-forward, each added to its input and normed."""

  def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
    self.attention = Attention(sizes, rngs)
    self.attention_norm = _norm(rngs, sizes)
    self.feed_forward = FeedForward(sizes, rngs)
    self.feed_forward_norm = _norm(rngs, sizes)

  def __call__(self, x: jax.Array, visible: jax.Array, drop: Drop) -> jax.Array:
    """[rows, time, width] and [rows, time] -> [rows, time, width]."""
    x = self.attention_norm(x + drop(self.attention(x, visible, drop)))
    return self.feed_forward_norm(x + drop(self.feed_forward(x)))


class Embedding(nnx.Module):
  """The sum of what a token, its place and its sentence are, normed."""

  def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
    self.first_position = sizes.first_position
    self.dtype = sizes.dtype
    normal = nnx.initializers.normal(_STANDARD_DEVIATION)
    table = lambda rows: nnx.Param(
      normal(rngs.params(), (rows, sizes.width), jnp.float32)
    )
    self.token = table(sizes.vocab_size)
    self.position = table(sizes.positions)
    self.segment = table(sizes.segments)
    self.norm = _norm(rngs, sizes)

  def __call__(self, tokens: jax.Array, segments: jax.Array) -> jax.Array:
    """Two of [rows, time] -> [rows, time, width]."""
    # A slice and no look-up: its gradient is a sum, not a scatter.
    end = self.first_position + tokens.shape[1]
    x = (
      jnp.take(self.token[...], tokens, axis=0)
      + self.position[self.first_position : end][None]
      + jnp.take(self.segment[...], segments, axis=0)
    )
    return self.norm(x.astype(self.dtype))


class Encoder(nnx.Module):
  """The whole network, from tokens to outputs."""

  def __init__(self, sizes: Sizes, outputs: int, rngs: nnx.Rngs):
    self.count = sizes.layers
    self.embedding = Embedding(sizes, rngs)
    self.layers: Any = nnx.Dict(
      {str(i): Layer(sizes, rngs) for i in range(sizes.layers)}
    )
    self.pooler = _linear(rngs, sizes, sizes.width, sizes.width)
    self.head = _linear(rngs, sizes, sizes.width, outputs)

  def hidden(self, batch: Any, drop: Drop = _nothing) -> jax.Array:
    """A batch -> [rows, time, width]."""
    tokens, length = batch['tokens'], batch['length']
    visible = jnp.arange(tokens.shape[1])[None] < length[:, None]
    x = drop(self.embedding(tokens, batch['segments']))
    for i in range(self.count):  # By number: '10' would come before '2'.
      x = self.layers[str(i)](x, visible, drop)
    return x

  def __call__(self, batch: Any, drop: Drop = _nothing) -> jax.Array:
    """A batch -> [rows, outputs] float32."""
    first = self.hidden(batch, drop)[:, 0]
    pooled = drop(jnp.tanh(self.pooler(first)))
    return self.head(pooled).astype(jnp.float32)


class Network:
  """The network as pure functions of its parameters.

  A batch has tokens and segments, int [rows, time], and length, int [rows]:
  how many tokens of a row are not filling.
  """

  def __init__(self, sizes: Sizes, outputs: int):
    """Args: its sizes; how many numbers it tells of a sentence."""
    self._new = lambda rngs: Encoder(sizes, outputs, rngs)
    shapes = nnx.eval_shape(lambda: self._new(nnx.Rngs(0)))
    self._graph = nnx.graphdef(shapes)

  def init(self, seed: int) -> Params:
    """Initial parameters; equal seeds give equal ones."""
    model = self._new(nnx.Rngs(jax.random.key(seed)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))

  def hidden(self, params: Params, batch: Any) -> jax.Array:
    """A vector of every token, [rows, time, width]."""
    return nnx.merge(self._graph, params).hidden(batch)

  def outputs(
    self, params: Params, batch: Any, dropout: float = 0.0
  ) -> jax.Array:
    """Of every sentence or pair, float32 [rows, outputs].

    For dropout, a batch also has noise, uint32 [rows].
    """
    model = nnx.merge(self._graph, params)
    if not dropout:
      return model(batch)
    keys = jax.vmap(jax.random.key)(batch['noise'])
    return model(batch, Dropout(dropout, keys))

  def matrices(self, params: Params, embeddings: bool = False) -> Any:
    """Dimension numbers of the matrices, None for what stays dense.

    That includes embeddings, pooler and head unless `embeddings`.
    """
    matrix = optax.contrib.MuonDimensionNumbers(0, 1)
    return rules.by_path(
      (
        (r'layers/\d+/(attention|feed_forward)/\w+/kernel', matrix),
        (ENDS, matrix if embeddings else None),
        (r'.*/(scale|bias)', None),
      ),
      params,
    )


def _project(x: jax.Array, linear: nnx.Linear) -> jax.Array:
  """[rows, time, a] -> [rows, time, b]."""
  # Flat, as with batch axes a gradient takes a fifth longer on a CPU.
  return linear(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _linear(rngs: nnx.Rngs, sizes: Sizes, a: int, b: int) -> nnx.Linear:
  normal = nnx.initializers.normal(_STANDARD_DEVIATION)
  return nnx.Linear(a, b, dtype=sizes.dtype, kernel_init=normal, rngs=rngs)


def _norm(rngs: nnx.Rngs, sizes: Sizes) -> nnx.LayerNorm:
  return nnx.LayerNorm(
    sizes.width,
    epsilon=sizes.norm_eps,
    dtype=sizes.dtype,
    rngs=rngs,
    use_fast_variance=False,
  )
