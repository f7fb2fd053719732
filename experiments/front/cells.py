"""The cells of the front, most important first.

The same batch of 16 sequences is divided over 4 or over 16 workers, so dense
averaging in every step is the same run for both, up to rounding. At each
budget, the messages are those that other studies found to be good there.
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


def _controls(rate: float) -> list[Cell]:
  """Dense averaging, and one of 4 and of 16 workers alone with its batches."""
  alone = [_cell(1, _DENSE, rate, batch=16 // x) for x in _WORKERS]
  return [*_of_both([_DENSE], rate), *alone]


def _of_both(sent: list[str], rate: float, seeds: int = 1) -> list[Cell]:
  return [_cell(n, x, rate, seeds=seeds) for x in sent for n in _WORKERS]


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
_MUON = [
  _quantize(4, 4),
  _quantize(2, 7),
  _quantize(2, 21),
  _quantize(2, 70),
  _powersgd(31, 8),
]
_MOMENTUM = [
  f'{_powersgd(22, 4, 11)} {_NESTEROV}',
  f'{_powersgd(22, 4, 38)} {_NESTEROV}',
]

CELLS = [
  *_controls(2e-3),
  *_of_both(_ADAMW, 2e-3),
  *_controls(2e-2),
  *_of_both(_MUON, 2e-2),
  *_of_both(_MOMENTUM, 2e-3),
  # The other learning rates.
  *_controls(4e-3),
  *_of_both([*_ADAMW, *_MOMENTUM], 4e-3),
  *_controls(1e-2),
  *_of_both(_MUON, 1e-2),
  *_controls(1e-3),
  *_of_both([*_ADAMW, *_MOMENTUM], 1e-3),
]
