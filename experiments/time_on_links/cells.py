"""The training runs of the study of time on links, in pairs that compare.

Two or four workers with the model, batch and rank of
`benchmarks.network.links`. The learning rate is constant after its warm-up, so
a run has the loss of a shorter one on its way, and the step at which it has
that of another can be read off. With two workers all methods have the same grid
of rates; with four, each has the one that was best with two, and dense
averaging and rounds in 2 bits also another.
"""

from experiments.simulated.cells import Cell

_RATES = 3.75e-4, 7.5e-4, 1.5e-3
_LOWER = 1.875e-4
_DENSE_STEPS, _WARMUP = 420, 30
_STEPS = {2: 840, 4: 720}
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


def words(method: str, hosts: int = 2) -> str:
  """The keys of a method's configuration."""
  steps = _DENSE_STEPS if method == 'dense' else _STEPS[hosts]
  return (
    f'--mesh.replica {hosts} --batch_size {4 * hosts}'
    f' --model.scan True --steps {steps}'
    f' --optimizer.warmup_fraction {_WARMUP / steps:.6f}'
    ' --optimizer.final_fraction 1 --evaluation.every 30'
    f' --compression.start_step 0 --compression.rank 32 {METHODS[method]}'
  )


def _cell(method: str, rate: float, hosts: int = 2) -> Cell:
  config = 'configs/studies/time_to_loss.py'
  return Cell(words(method, hosts), (rate,), config=config)


_OF_FOUR = {  # The best rates of two workers.
  'dense': 3.75e-4,
  'quantize2-30': 7.5e-4,
  'powersgd_int4-30': 3.75e-4,
  'post_local_sgd-30': 3.75e-4,
  'powersgd': 3.75e-4,
  'powersgd_hook': 3.75e-4,
}
CELLS = [
  *(_cell(method, rate) for rate in _RATES[::-1] for method in METHODS),
  # For the end of the grid.
  _cell('dense', _LOWER),
  _cell('torchft_diloco-30', _LOWER),
  *(_cell(method, rate, 4) for method, rate in _OF_FOUR.items()),
  _cell('dense', 7.5e-4, 4),
  _cell('quantize2-30', 3.75e-4, 4),
]
