"""Residual networks for small images in Flax NNX, used as pure trees.

The stem is that of CIFAR: one 3 x 3 convolution of stride 1 and no pooling, so
that images of 32 pixels do not shrink before the first block. A block is two 3
x 3 convolutions, each with a batch norm, added to its input; every stage but
the first halves the image and doubles the channels.

Parameters, a nested dict of float32 arrays, with c channels:

  stem/kernel                             [3, 3, channels of the image, width]
  stages/I/J/{first,second}/kernel        [3, 3, c in, c out]
  stages/I/J/shortcut/kernel              [1, 1, c in, c out], where c changes
  .../norm/{scale,bias} next to a kernel  [c out], of its batch norm
  head/{kernel,bias}                      [c, classes], [classes]

A batch norm uses the batch of its worker in training. It remembers nothing
there: for evaluation, statistics are taken from training batches, with the
parameters of that moment, and averaged over them and over the workers.

References:
  He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385,
  2015.
  Wu, Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576, 2021, section
  3 (precise statistics).
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from train.config.schema import Model
from train.models import rules

Params = dict[str, Any]
Statistics = dict[str, Any]
# The first and the last layer, which the papers leave dense.
ENDS = r'^(stem|head)/kernel$'
# Blocks of each stage.
_BLOCKS = {'resnet8': (1, 1, 1), 'resnet18': (2, 2, 2, 2)}


class NormedConvolution(nnx.Module):
  """A convolution without bias and the batch norm behind it."""

  def __init__(
    self, rngs: nnx.Rngs, channels: tuple[int, int], size: int, stride: int
  ):
    self.stride = stride
    scaled = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    shape = size, size, *channels
    self.kernel = nnx.Param(scaled(rngs.params(), shape, jnp.float32))
    # Without momentum its statistics are those of the last batch.
    self.norm = nnx.BatchNorm(channels[1], momentum=0.0, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, in] -> [batch, height / stride, ..., out]."""
    y = jax.lax.conv_general_dilated(
      x,
      self.kernel[...].astype(x.dtype),
      (self.stride, self.stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return self.norm(y).astype(x.dtype)


class Block(nnx.Module):
  """relu(second(relu(first(x))) + shortcut(x))."""

  def __init__(self, rngs: nnx.Rngs, channels: tuple[int, int], stride: int):
    self.first = NormedConvolution(rngs, channels, 3, stride)
    self.second = NormedConvolution(rngs, (channels[1], channels[1]), 3, 1)
    same = stride == 1 and channels[0] == channels[1]
    self.shortcut = (
      None if same else NormedConvolution(rngs, channels, 1, stride)
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, in] -> [batch, height / stride, ..., out]."""
    y = self.second(jax.nn.relu(self.first(x)))
    return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
  """The whole network, from pixels to logits."""

  def __init__(self, model: Model, channels: int, classes: int, rngs: nnx.Rngs):
    self.dtype = model.dtype
    blocks = _BLOCKS[model.name]
    self.stem = NormedConvolution(rngs, (channels, model.width), 3, 1)
    self.stages: Any = nnx.Dict()
    width = model.width
    for i, count in enumerate(blocks):
      out = model.width * 2**i
      stage: Any = nnx.Dict()
      for j in range(count):
        stride = 2 if i > 0 and j == 0 else 1
        stage[str(j)] = Block(rngs, (width, out), stride)
        width = out
      self.stages[str(i)] = stage
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, image: jax.Array) -> jax.Array:
    """[batch, height, width, channels] uint8 -> logits [batch, classes]."""
    x = (image.astype(jnp.float32) / 127.5 - 1).astype(self.dtype)
    x = jax.nn.relu(self.stem(x))
    for i in sorted(self.stages):
      for j in sorted(self.stages[i]):
        x = self.stages[i][j](x)
    return self.head(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))


class Network:
  """The network as pure functions of parameters and statistics."""

  def __init__(self, model: Model, channels: int, classes: int):
    """Args: the section `model`, channels of an image, labels there are."""
    self._new = lambda rngs: ResNet(model, channels, classes, rngs)
    shapes = nnx.eval_shape(lambda: self._new(nnx.Rngs(0)))
    self._graph = nnx.graphdef(shapes)
    self._blank = nnx.to_pure_dict(nnx.state(shapes, nnx.BatchStat))

  def init(self, seed: int) -> Params:
    """Initial parameters; equal seeds give equal ones."""
    model = self._new(nnx.Rngs(jax.random.key(seed)))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))

  def logits(self, params: Params, image: jax.Array) -> jax.Array:
    """With the statistics of this batch itself, as in training."""
    return self._run(params, image)[0]

  def statistics(self, params: Params, image: jax.Array) -> Statistics:
    """Of this batch in all batch norms: mean and mean square, [c] each.

    Means of these over batches are those of all the batches together.
    """
    found = self._run(params, image)[1]
    return _variances(found, lambda mean, var: var + mean**2)

  def predict(
    self, params: Params, statistics: Statistics, image: jax.Array
  ) -> jax.Array:
    """Logits with means of `statistics`, [batch, classes]."""
    norms = _variances(statistics, lambda mean, square: square - mean**2)
    model = nnx.merge(self._graph, params, norms)
    model.eval()
    return model(image)

  def _run(self, params, image):
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._blank)
    model = nnx.merge(self._graph, params, zeros)
    logits = model(image)
    return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

  def matrices(self, params: Params, embeddings: bool = False) -> Any:
    """Dimension numbers of the kernels as matrices, [3 x 3 x c in, c out].

    They are None for what stays dense: also stem and head unless `embeddings`.
    """
    convolution = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    linear = optax.contrib.MuonDimensionNumbers(0, 1)
    return rules.by_path(
      (
        (r'stages/.*/kernel', convolution),
        (r'stem/kernel', convolution if embeddings else None),
        (r'head/kernel', linear if embeddings else None),
        (r'.*/(scale|bias)', None),
      ),
      params,
    )


def _variances(statistics: Statistics, change: Any) -> Statistics:
  """The tree with `change(mean, var)` in the place of every variance."""
  if 'var' in statistics:
    var = change(statistics['mean'], statistics['var'])
    return statistics | {'var': var}
  return {key: _variances(x, change) for key, x in statistics.items()}
