"""Eight virtual CPU devices, and no silent rank promotion."""

import os

os.environ['XLA_FLAGS'] = ' '.join((
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
))
os.environ['JAX_PLATFORMS'] = 'cpu'

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
