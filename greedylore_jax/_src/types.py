"""Names for what the library passes around."""

from collections.abc import Callable
from typing import Any, Literal

import jax

Array = jax.Array
DType = Any
"""Anything that `jnp.dtype` accepts."""
Shape = tuple[int, ...]
PyTree = Any
Params = PyTree
Updates = PyTree
"""Gradients or updates, in the structure of the parameters."""
OptState = PyTree
KeyPath = tuple[Any, ...]
"""The place of a leaf in a tree, as `jax.tree_util` gives it."""
Spec = Any
"""A `jax.sharding.PartitionSpec`, which JAX does not type as a class."""
AxisName = str | tuple[str, ...] | None
"""The mesh axes of the workers; None for a single worker."""
Phase = Literal['warmup', 'refresh', 'compress']
"""What one leaf does in a step."""
Function = Callable[..., Any]
