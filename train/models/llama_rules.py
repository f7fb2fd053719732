"""What a LLaMA's parameters are, by rules over their paths."""

from typing import Any

import jax
import optax

from train.config.machines import FSDP
from train.config.machines import TENSOR
from train.models import rules

_P = jax.sharding.PartitionSpec
# The paths of the parameters with a side as long as the vocabulary.
EMBEDDINGS = r'^(embedding|head)$'
_MATRICES = '(attention|feed_forward)'
# The same for one layer, [inputs, outputs], and for all of them in a stack.
_ONE, _STACK = r'blocks/\d+/', r'blocks/'
_NORMS = r'norm|blocks/(\d+/)?(attention|feed_forward)_norm'


def matrix_dimension_numbers(params: Any, embeddings: bool = False) -> Any:
  """Which parameters are matrices, worth a compressed gradient.

  Args:
    params: What `init` gives, or its shapes.
    embeddings: Count the embedding and the head as matrices too.

  Returns:
    A tree like params with `optax.contrib.MuonDimensionNumbers` for each
    matrix and None for what is left dense.

  Raises:
    ValueError: If a parameter is none of a LLaMA's.
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
  """How parameters lie spread over the devices of a worker.

  Every matrix has its width, the side that all layers share, over `fsdp`. Its
  other side is over `tensor`: what reads from the residual stream has its
  outputs there and what writes to it its inputs, so that one sum over `tensor`
  follows two products.

  Args:
    params: What `init` gives, or its shapes.

  Returns:
    A tree like params of PartitionSpecs.

  Raises:
    ValueError: If a parameter is none of a LLaMA's.
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
