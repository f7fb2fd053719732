"""The cells of the front, most important first.

The same batch of 16 sequences is divided over 4, 8 or 16 workers, so dense
averaging in every step is the same run for all, up to rounding. At each
budget, the messages are those that other studies found to be good there, and
`_METHODS` are all others at 10 and at 30 times fewer bytes.
"""

from experiments.simulated.cells import Cell

_WORKERS = 4, 16
_DENSE = '--compression.method dense'
_NESTEROV = '--local.outer_learning_rate 0.7 --local.outer_momentum 0.5'


def _cell(
  workers: int, sent: str, rate: float, *, batch: int = 16, seeds: int = 1
) -> Cell:
  optimizer = 'muon' if rate > 5e-3 else 'adamw'
  words = (
    f'--optimizer.name {optimizer} --mesh.replica {workers} --batch_size'
    f' {batch} --data.sequence_length 64 --steps 500 --model.scan True'
    f' --compression.start_step 0 {sent}'
  )
  return Cell(words, (rate,), seeds)


def _rounds(every: int) -> str:
  return f' --local.every {every}' if every > 1 else ''


def _powersgd(rank: int, bits: int, every: int = 1) -> str:
  precision = f'--compression.rank {rank} --compression.factor_dtype int{bits}'
  return precision + _rounds(every)


def _quantize(bits: int, every: int = 1) -> str:
  precision = f'--compression.method quantize --compression.bits {bits}'
  return precision + _rounds(every)


def _sparse_loco(every: int) -> str:
  return (
    '--compression.method chunk_top_k --compression.keep 175'
    f' --compression.bits 2 --compression.error_decay 0.95{_rounds(every)}'
  )


def _controls(rate: float, workers: tuple[int, ...] = _WORKERS) -> list[Cell]:
  """Dense averaging, and each worker alone with its part of the batch."""
  alone = [_cell(1, _DENSE, rate, batch=16 // x) for x in workers]
  return [*_of([_DENSE], rate, workers), *alone]


def _of(
  sent: list[str],
  rate: float,
  workers: tuple[int, ...] = _WORKERS,
  seeds: int = 1,
) -> list[Cell]:
  return [_cell(n, x, rate, seeds=seeds) for x in sent for n in workers]


# 4 to 1,000 times fewer bytes.
_ADAMW = [
  _powersgd(22, 4, 4),
  _quantize(4, 4),
  _powersgd(31, 8),
  _powersgd(22, 4, 11),
  _powersgd(20, 4),
  _sparse_loco(4),
  _powersgd(5, 4),
  _powersgd(22, 4, 38),
  _quantize(8),
  _quantize(2, 21),
  _sparse_loco(40),
  f'{_DENSE}{_rounds(10)}',
]
_MUON = [_quantize(4, 4), _quantize(2, 7), _powersgd(31, 8)]
_MOMENTUM = [
  f'{_powersgd(22, 4, 11)} {_NESTEROV}',
  f'{_powersgd(22, 4, 38)} {_NESTEROV}',
]
# Every other method, as near to 10 and to 30 times fewer bytes as it comes.
_INT8 = '--compression.factor_dtype int8 --compression.dense_dtype int8'
_METHODS = [
  f'--compression.method {words}'
  for words in (
    f'greedylore --compression.rank 46 {_INT8}',
    'frugal --compression.density 0.0218',
    'tsr_adam --compression.rank 49',
    'range_finder --compression.rank 31 --compression.factor_dtype int8',
    'chunk_top_k --compression.keep 430 --compression.bits 2',
    'threshold_top_k --compression.density 0.0223',
    'top_k --compression.density 0.0664',
    'count_sketch --compression.density 0.0246',
    'sketched_amsgrad --compression.density 0.0246',
    f'tsr --compression.rank 101 {_INT8}',
    'sign',
    'lordo --compression.rank 32 --local.every 10',
    f'greedylore --compression.rank 12 {_INT8}',
    'range_finder --compression.rank 10 --compression.factor_dtype int8',
    'tsr_adam --compression.rank 26',
    'chunk_top_k --compression.keep 138 --compression.bits 2',
    'threshold_top_k --compression.density 0.00723',
    'count_sketch --compression.density 0.008',
    f'tsr --compression.rank 56 {_INT8}',
    'lordo --compression.rank 32 --local.every 4'
    ' --compression.payload_method quantize --compression.bits 4',
    f'past_sketches --compression.rank 38 {_INT8}',
    f'past_sketches --compression.rank 12 {_INT8}',
  )
]
# What else there is to a round, at the bytes of a plain one of 7 or 4 steps.
_OPTIONS = [
  _quantize(2, 7),
  f'{_quantize(2, 2)} --local.qsr_alpha 0.036',
  f'{_quantize(2, 7)} --local.delay 2',
  f'{_quantize(2, 7)} --local.fragments 4',
  f'{_quantize(2, 7)} --compression.error_decay 0.9',
  f'{_quantize(2, 7)} --local.average_moments 1',  # Sends far more.
  _quantize(2, 28),
  _quantize(2, 100),
  f'{_quantize(2, 7)} --local.fragments 7',
  f'{_quantize(2, 28)} --local.fragments 7',
]
_OPTIONS_ADAMW = [
  f'{_powersgd(22, 4, 2)} --local.qsr_alpha 0.00255',
  f'{_powersgd(22, 4, 4)} --local.delay 1',
  f'{_powersgd(22, 4, 4)} --local.fragments 4',
  f'{_powersgd(22, 4, 4)} --compression.error_decay 0.9',
  f'{_powersgd(22, 4, 4)} --local.average_moments 1',
  f'{_powersgd(22, 4, 11)} --local.fragments 4',
  f'{_powersgd(22, 4, 38)} --local.fragments 7',
]
_FRONT = [
  _powersgd(31, 8),
  _powersgd(20, 4),
  _quantize(4, 4),
  _powersgd(22, 4, 4),
  f'{_powersgd(22, 4, 4)} --local.fragments 4',
  _powersgd(22, 4, 11),
]
_FRONT_MUON = [*_MUON, f'{_quantize(2, 7)} --local.fragments 4']
_ROUNDS_MUON = [_FRONT_MUON[0], _FRONT_MUON[-1]]

CELLS = [
  *_controls(2e-3),
  *_of(_ADAMW, 2e-3),
  *_controls(2e-2, (4,)),
  *_of([*_MUON[:1], *_OPTIONS], 2e-2, (4,)),
  *_of([*_METHODS[:12], *_OPTIONS_ADAMW], 2e-3, (4,)),
  *_of(_MUON, 2e-2, (4,)),
  # Three seeds.
  _cell(1, _DENSE, 2e-3, batch=4, seeds=3),
  *_of([_DENSE, *_FRONT], 2e-3, (4,), seeds=3),
  *_of([_DENSE, _quantize(4, 4), _powersgd(31, 8)], 2e-2, (4,), seeds=3),
  # 8 workers.
  *_controls(2e-3, (8,)),
  *_of(_FRONT, 2e-3, (8,)),
  *_controls(2e-2, (8,)),
  *_of(_FRONT_MUON, 2e-2, (8,)),
  # The other learning rates.
  *_of([_DENSE, *_FRONT], 1e-3, (4,)),
  *_of([_DENSE, *_FRONT_MUON], 1e-2, (4,)),
  *_of([_DENSE, *_FRONT], 4e-3, (4,)),
  *_of([_DENSE, *_FRONT_MUON], 4e-2, (4,)),
  *_of(_ROUNDS_MUON, 4e-2, (4,), seeds=3),
  *_of(_MOMENTUM, 2e-3),
  *_of(_METHODS, 5e-4, (4,)),
  *_of(_METHODS[12:], 2e-3, (4,)),
  # Muon with 16 workers.
  *_controls(2e-2, (16,)),
  *_of(_FRONT_MUON, 2e-2, (16,)),
  # Higher rates for Muon's rounds.
  *_of(_ROUNDS_MUON, 4e-2, (8, 16)),
  *_of(_ROUNDS_MUON, 8e-2, (4,)),
]
