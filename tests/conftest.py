"""Eight virtual devices, no silent rank promotion, programs compiled once."""

import os
import tempfile

os.environ['XLA_FLAGS'] = ' '.join(
  (
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_backend_optimization_level=0',  # Tests compile more than they run.
  )
)
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # As in train.__main__.

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
# The trainer's tests start the same run again and again.
_CACHE = tempfile.TemporaryDirectory(prefix='greedylore-tests-')
jax.config.update('jax_compilation_cache_dir', _CACHE.name)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
assert jax.device_count() == 8
