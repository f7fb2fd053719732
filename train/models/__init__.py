"""Models as pure functions of a tree of parameters."""

from train.models.llama import EMBEDDINGS
from train.models.llama import init
from train.models.llama import make_apply
from train.models.llama import make_loss
from train.models.llama import matrix_dimension_numbers

__all__ = [
    'EMBEDDINGS', 'init', 'make_apply', 'make_loss', 'matrix_dimension_numbers'
]  # fmt: skip
