"""The matrices whose gradients are averaged, and the methods that do it."""

from typing import NamedTuple


class Llama(NamedTuple):
  """Sizes of a LLaMA's blocks; embedding and head are left out."""

  width: int
  hidden: int
  layers: int


# As in GreedyLore's and GaLore's experiments.
LLAMAS = {
  '60m': Llama(512, 1376, 8),
  '130m': Llama(768, 2048, 12),
  '350m': Llama(1024, 2736, 24),
}


def matrices(model: str) -> dict[str, tuple[int, int]]:
  """Name -> shape, seven per layer.

  Args:
    model: a key of `LLAMAS`.
  """
  width, hidden, layers = LLAMAS[model]
  block = {
    'query': (width, width),
    'key': (width, width),
    'value': (width, width),
    'out': (width, width),
    'gate': (width, hidden),
    'up': (width, hidden),
    'down': (hidden, width),
  }
  return {
    f'block{i:02}/{name}': shape
    for i in range(layers)
    for name, shape in block.items()
  }


def size(model: str) -> int:
  """How many numbers the matrices have together."""
  return sum(m * n for m, n in matrices(model).values())
