"""The training runs of the study of time on links, in pairs that compare.

Two workers with the model, batch and rank of `benchmarks.network.links`. The
learning rate is constant after its warm-up, so a run has the loss of a shorter
one on its way, and the step at which it has that of another can be read off.
All methods have the same grid of rates.
"""

from experiments.simulated.cells import Cell

_RATES = 3.75e-4, 7.5e-4, 1.5e-3
_LOWER = 1.875e-4
_DENSE_STEPS, _STEPS, _WARMUP = 420, 840, 30
_DENSE = '--compression.method dense'
_POWERSGD = '--compression.method powersgd'
_NESTEROV = '--local.outer_learning_rate 0.7 --local.outer_momentum 0.9'

# What runs as a method of the benchmark, ours or a peer, sends.
METHODS = {
  'dense': _DENSE,
  'powersgd_int4-30': (
    f'{_POWERSGD} --compression.factor_dtype int4 --local.every 30'
  ),
  'powersgd': f'{_POWERSGD} --compression.factor_dtype int8',
  'post_local_sgd-30': f'{_DENSE} --local.every 30',
  'torchft_diloco-30': f'{_DENSE} --local.every 30 {_NESTEROV}',
  'quantize2-30': (
    '--compression.method quantize --compression.bits 2 --local.every 30'
  ),
  'powersgd_hook': _POWERSGD,
  'powersgd_int4-100': (
    f'{_POWERSGD} --compression.factor_dtype int4 --local.every 100'
  ),
}
SAME = {'ddp': 'dense', 'dense-30': 'post_local_sgd-30'}
"""Methods of the benchmark that are the same mathematics as another."""


def words(method: str) -> str:
  """The keys of a method's configuration."""
  steps = _DENSE_STEPS if method == 'dense' else _STEPS
  return (
    f'--mesh.replica 2 --batch_size 8 --model.scan True --steps {steps}'
    f' --optimizer.warmup_fraction {_WARMUP / steps:.6f}'
    ' --optimizer.final_fraction 1 --evaluation.every 30'
    f' --compression.start_step 0 --compression.rank 32 {METHODS[method]}'
  )


_CONFIG = 'configs/studies/time_to_loss.py'
CELLS = [
  *(
    Cell(words(method), (rate,), config=_CONFIG)
    for rate in _RATES[::-1]
    for method in METHODS
  ),
  Cell(words('dense'), (_LOWER,), config=_CONFIG),  # For the end of the grid.
]
