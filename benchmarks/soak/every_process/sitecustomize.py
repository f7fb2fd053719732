"""JAX's compilation cache for every process of a run on CPUs.

Python imports this module at startup if PYTHONPATH contains this folder. On
GPUs, all processes share the entries that process 0 writes. On CPUs, the key of
an entry depends on the process, and JAX 0.12 writes those of process 0 only, so
the others would compile everything again after a restart.
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
