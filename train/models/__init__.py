"""Models as pure functions of a tree of parameters."""

from train.models.llama import init
from train.models.llama import make_apply
from train.models.llama import make_loss
from train.models.llama_rules import EMBEDDINGS
from train.models.llama_rules import matrix_dimension_numbers
from train.models.llama_rules import partition_specs

__all__ = [
    'EMBEDDINGS', 'init', 'make_apply', 'make_loss',
    'matrix_dimension_numbers', 'partition_specs',
]  # fmt: skip
