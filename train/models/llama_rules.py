"""What a LLaMA's parameters are, by rules over their paths."""

from typing import Any

import jax
import optax

from train.config.machines import FSDP, TENSOR
from train.models import rules

_P = jax.sharding.PartitionSpec
# The paths of the parameters with a side as long as the vocabulary.
EMBEDDINGS = r'^(embedding|head)$'
_MATRICES = '(attention|feed_forward)'
# The same for one layer, [inputs, outputs], and for all of them in a stack.
_ONE, _STACK = r'blocks/\d+/', r'blocks/'
_NORMS = r'norm|blocks/(\d+/)?(attention|feed_forward)_norm'


def matrix_dimension_numbers(params: Any, embeddings: bool = False) -> Any:
  """Which parameters are matrices, whose gradients may be compressed.

  Returns:
    A tree like `params` of `optax.contrib.MuonDimensionNumbers`, or None where
    gradients stay dense; that includes embedding and head unless `embeddings`.

  Raises:
    ValueError: If a parameter is not one of a LLaMA.
  """
  numbers = optax.contrib.MuonDimensionNumbers
  return rules.by_path(
    (
      (_ONE + _MATRICES + r'/\w+', numbers(0, 1)),
      (_STACK + _MATRICES + r'/\w+', numbers(1, 2)),
      (EMBEDDINGS, numbers(0, 1) if embeddings else None),
      (_NORMS, None),
    ),
    params,
  )


def partition_specs(params: Any) -> Any:
  """How parameters are sharded over the devices of a worker: PartitionSpecs.

  The width of every matrix, the side that all layers share, is sharded over
  `fsdp`. The other side is sharded over `tensor`: outputs of matrices that read
  from the residual stream, inputs of those that write to it. So one sum over
  `tensor` follows two products.

  Raises:
    ValueError: If a parameter is not one of a LLaMA.
  """
  writes = r'(attention/output|feed_forward/down)'
  return rules.by_path(
    (
      (_ONE + writes, _P(TENSOR, FSDP)),
      (_ONE + _MATRICES + r'/\w+', _P(FSDP, TENSOR)),
      (_STACK + writes, _P(None, TENSOR, FSDP)),
      (_STACK + _MATRICES + r'/\w+', _P(None, FSDP, TENSOR)),
      ('embedding', _P(None, (FSDP, TENSOR))),
      ('head', _P(FSDP, TENSOR)),
      (_NORMS, _P()),
    ),
    params,
  )
