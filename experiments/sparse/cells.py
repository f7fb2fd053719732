"""The cells of the study of sparse methods, most important first.

Every method sends 10, 20, 50 or 100 times fewer bytes than dense averaging, or
as close to that as it can. Learning rates are those of one grid, 5e-4 to 4e-3:
1e-3 and 2e-3 for all, and the next one where the best of them may be at an end.
DeMo has lower ones, as its steps are signs.
"""

from experiments.simulated.cells import Cell

_LOW, _HIGH = (5e-4, 1e-3, 2e-3), (1e-3, 2e-3, 4e-3)


def _cell(method: str, words: str, rates: tuple[float, ...] = _HIGH) -> Cell:
  return Cell(
    f'--compression.method {method} {words} --compression.start_step 0'
    ' --mesh.replica 4 --batch_size 4 --steps 500 --model.scan True',
    rates,
  )


def _powersgd(rank: int, every: int = 0) -> Cell:
  return _cell(
    'powersgd',
    f'--compression.rank {rank} --compression.factor_dtype int4'
    f'{_rounds(every)}',
  )


def _greedylore(rank: int) -> Cell:
  return _cell(
    'greedylore',
    f'--compression.rank {rank} --compression.factor_dtype int8'
    ' --compression.dense_dtype int8',
    _LOW,
  )


def _quantize(every: int) -> Cell:
  return _cell('quantize', f'--compression.bits 2{_rounds(every)}')


def _chunks(keep: int, every: int = 0) -> Cell:
  """In 2 bits and with a decay, which in rounds is SparseLoCo."""
  return _cell(
    'chunk_top_k',
    f'--compression.keep {keep} --compression.bits 2'
    f' --compression.error_decay 0.95{_rounds(every)}',
    _HIGH if every else _LOW,
  )


def _density(method: str, density: float, every: int = 0) -> Cell:
  is_low = not every and method != 'frugal'
  words = f'--compression.density {density}{_rounds(every)}'
  return _cell(method, words, _LOW if is_low else _HIGH)


def _rounds(every: int) -> str:
  return f' --local.every {every}' if every else ''


_DEMO = _cell(
  'chunk_top_k',
  '--compression.keep 64 --compression.bits 1 --compression.transform dct'
  ' --compression.error_decay 0.999 --optimizer.name sign_sgd',
  (3e-4, 1e-3, 3e-3),
)

CELLS = [
  _cell('dense', ''),
  _cell('chunk_top_k', '--compression.keep 148', _LOW),
  _powersgd(29),
  _density('threshold_top_k', 0.011),
  _density('count_sketch', 0.012),
  _chunks(175, 4),
  _powersgd(5),
  _quantize(7),
  _powersgd(22, 4),
  _density('frugal', 0.016),
  _density('sketched_amsgrad', 0.012),
  _greedylore(21),
  _quantize(4),
  _powersgd(11),
  _chunks(217),
  _chunks(350, 4),
  _greedylore(6),
  _quantize(1),
  _powersgd(60),
  _chunks(434),
  _density('frugal', 0.066),
  _density('count_sketch', 0.0088, 4),
  _density('threshold_top_k', 0.0088, 4),
  _density('top_k', 0.0188),
  _DEMO,
]
