"""What is freed stays with the process: training on CPUs is faster so."""

import ctypes
import os
import sys

# Of glibc's malloc.h: the system gets nothing back, large buffers lie with the
# small ones, and all threads share one heap, so that they can use it again.
_M_TRIM_THRESHOLD, _NEVER = -1, -1
_M_MMAP_MAX, _NONE = -4, 0
_M_ARENA_MAX, _ONE = -8, 1


def keep_freed_memory() -> bool:
  """Lets glibc keep freed memory; says whether it was there to be told.

  XLA's CPU client asks for its buffers anew in every step. Those of more than
  32 MB come from the system, page by page, and go back to it: up to half of a
  step, for a process that is up to a third larger without this. To leave
  memory to glibc, set `glibc.malloc.trim_threshold` in GLIBC_TUNABLES.

  To be called before threads are started.
  """
  chosen = 'glibc.malloc.trim_threshold' in os.environ.get('GLIBC_TUNABLES', '')
  if sys.platform != 'linux' or chosen:
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:  # Another C library.
    return False
  return all(
      mallopt(option, value)
      for option, value in (
          (_M_TRIM_THRESHOLD, _NEVER),
          (_M_MMAP_MAX, _NONE),
          (_M_ARENA_MAX, _ONE),
      )
  )
