"""The cells of the study of local updates, most important first.

In every part, one worker alone and dense averaging in every step come first:
without them nothing else means anything. `_SCOUTS` are for one seed; `_FRONT`
is what three seeds and other numbers of workers and sequences are for.
"""

from experiments.simulated.cells import Cell

_RATES = {
  'adamw': (1e-3, 2e-3, 4e-3, 8e-3),
  'muon': (5e-3, 1e-2, 2e-2, 4e-2),  # AdamW's part has a tenth.
}

# What is sent. In rounds, compression.start_step counts rounds.
_DENSE = '--compression.method dense --compression.start_step 0'
_START = '--compression.start_step 0'


def _powersgd(rank: int, bits: int = 4) -> str:
  return f'--compression.rank {rank} --compression.factor_dtype int{bits}'


def _quantize(bits: int) -> str:
  return f'--compression.method quantize --compression.bits {bits} {_START}'


_R8, _R22, _R64 = (f'{_powersgd(rank)} {_START}' for rank in (8, 22, 64))


# When, and how the average is applied.
def _rounds(every: int, momentum: float = 0.0) -> str:
  """Plain averaging, or Nesterov momentum at a rate of 0.7."""
  rate = 0.7 if momentum else 1.0
  return (
    f'--local.every {every} --local.outer_learning_rate {rate}'
    f' --local.outer_momentum {momentum}'
  )


_DECAY = '--compression.error_decay 0.9'
_NO_EMBEDDINGS = '--compression.embeddings False'

_FRONT = [
  f'{_DENSE} {_rounds(10)}',
  f'{_quantize(4)} {_rounds(10)}',
  f'{_R22} {_rounds(10)}',
  f'{_powersgd(22)} --compression.start_step 45',
  f'{_quantize(4)} {_rounds(30)}',
  f'{_R22} {_rounds(30)}',
  f'{_R22} {_rounds(10, 0.9)}',
  f'{_quantize(4)} {_rounds(4)}',
]
_SCOUTS = [
  f'{_powersgd(22, 8)} {_START} {_rounds(10)}',
  f'{_powersgd(22, 8)} --compression.start_step 45',
  f'{_DENSE} {_rounds(10, 0.9)}',
  f'{_R22} {_rounds(4)}',
  f'{_quantize(2)} {_rounds(10)}',
  f'{_R64} {_rounds(10)}',
  f'{_R22} {_rounds(10, 0.5)}',
  f'{_quantize(4)} {_rounds(10, 0.5)}',
  f'{_powersgd(8)} --compression.start_step 45',
  f'{_DENSE} {_rounds(30)}',
  f'{_quantize(4)} {_rounds(30)} --local.start_step 150',
  f'{_R22} {_rounds(10)} {_DECAY}',
  # Why is low rank worse than dense in rounds of 10?
  f'{_R22} {_rounds(10)} {_NO_EMBEDDINGS}',
  f'{_powersgd(22)} --compression.start_step 15 {_rounds(10)}',
  f'{_R8} {_rounds(10)}',
  f'{_quantize(4)} {_rounds(100)}',
  f'{_DENSE} {_rounds(4)}',
  f'{_DENSE} {_rounds(2)}',
  f'{_DENSE} {_rounds(30, 0.9)}',
  f'{_R22} {_rounds(30, 0.9)}',
  # What closes the ground between 12 and 100 times?
  f'{_quantize(8)} {_rounds(10)}',
  f'{_quantize(4)} {_rounds(10)} --local.average_moments 1',
  f'{_quantize(4)} {_rounds(10)} --local.fragments 4',
  f'{_quantize(4)} {_rounds(10)} --local.delay 4',
  f'{_quantize(4)} {_rounds(2)}',
  f'{_R22} {_rounds(2)}',
  f'{_R22} {_rounds(30)} --local.start_step 150',
  f'{_R22} {_rounds(10, 0.9)} {_DECAY}',
  f'{_DENSE} {_rounds(4, 0.5)}',
  f'{_DENSE} {_rounds(100)}',
  f'{_DENSE} {_rounds(100, 0.9)}',
]
# Rounds as long as the rate allows: at a rate of alpha / 2 they have 4 steps.
_QSR = [
  (optimizer, f'{sent} {_rounds(4)} --local.qsr_alpha {alpha}')
  for sent in (_quantize(4), _R22)
  for optimizer, alpha in (('muon', 0.02), ('adamw', 0.004))
]
# What else there is to a round; QSR and SelSync take the rates in turn.
_OPTIONS = [
  f'{_R22} {_rounds(10)} --local.average_moments 10',
  f'{_R22} {_rounds(10)} --local.fragments 5',
  f'{_R22} {_rounds(10)} --local.delay 5',
  f'{_R22} {_rounds(30)} --local.selsync_threshold 0.1',
]


def _cell(
  optimizer: str, shape: tuple[int, int], words: str, seeds: int = 1
) -> Cell:
  workers, sequences = shape
  words = (
    f'--optimizer.name {optimizer} --mesh.replica {workers} --batch_size'
    f' {workers * sequences} --model.scan True {words}'
  )
  return Cell(words, _RATES[optimizer], seeds)


def _controls(optimizer: str, shape: tuple[int, int]) -> list[Cell]:
  """One worker alone, and dense averaging in every step."""
  return [
    _cell(optimizer, (1, shape[1]), _DENSE, seeds=3),
    _cell(optimizer, shape, _DENSE, seeds=3),
  ]


def _part(shape: tuple[int, int], rows: list[str], seeds: int) -> list[Cell]:
  """Both optimizers in turns."""
  return [
    _cell(name, shape, row, seeds) for row in rows for name in ('muon', 'adamw')
  ]


def _all_controls(shape: tuple[int, int]) -> list[Cell]:
  return [x for name in ('muon', 'adamw') for x in _controls(name, shape)]


CELLS = [
  *_all_controls((4, 1)),
  *_part((4, 1), _FRONT, seeds=3),
  *_part((4, 1), _SCOUTS[:8], seeds=1),
  *_all_controls((4, 4)),
  *_part((4, 4), _FRONT, seeds=1),
  *_part((4, 1), _SCOUTS[8:16], seeds=1),
  *(_cell(name, (4, 1), row) for name, row in _QSR[:2]),
  *_all_controls((8, 1))[1::2],  # Alone is as above.
  *_part((8, 1), _FRONT, seeds=1),
  *_part((4, 1), _SCOUTS[16:], seeds=1),
  *(_cell(name, (4, 1), row) for name, row in _QSR[2:]),
]
