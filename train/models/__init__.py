"""Models as pure functions of a tree of parameters."""

from train.models.llama import (
    init,
    make_apply,
    make_loss,
    matrix_dimension_numbers,
)

__all__ = ['init', 'make_apply', 'make_loss', 'matrix_dimension_numbers']
