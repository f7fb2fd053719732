"""JAX's compilation cache for every process of a run on CPUs.

Python imports this at its start where PYTHONPATH has this folder. On GPUs and
TPUs all processes find in the cache what process 0 wrote. On CPUs they look for
entries of their own, which JAX writes for process 0 only, so after a restart
the others would compile everything again.
"""

import sys
from typing import Any

if sys.orig_argv[1:3] == ['-m', 'train']:
  from jax._src import compiler, distributed

  _write = compiler._cache_write

  def _write_as_process_0(*args: Any) -> None:
    state = distributed.global_state
    own = state.process_id
    state.process_id = 0
    try:
      _write(*args)
    finally:
      state.process_id = own

  compiler._cache_write = _write_as_process_0
