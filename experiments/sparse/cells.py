"""The cells of the study of sparse methods, most important first.

Every method sends 10, 20, 50 or 100 times fewer bytes than dense averaging, or
as close to that as it can. The learning rate is the one that was best for dense
AdamW on this model, for all.
"""

from experiments.simulated.cells import Cell

_RATE = 2e-3


def _cell(method: str, words: str = '') -> Cell:
  return Cell(
    f'--compression.method {method} {words} --compression.start_step 0'
    ' --mesh.replica 4 --batch_size 4 --steps 500 --model.scan True',
    (_RATE,),
  )


def _powersgd(rank: int, more: str = '') -> Cell:
  return _cell(
    'powersgd',
    f'--compression.rank {rank} --compression.factor_dtype int4{more}',
  )


def _chunks(keep: int, more: str = '') -> Cell:
  return _cell('chunk_top_k', f'--compression.keep {keep}{more}')


def _density(method: str, density: float, more: str = '') -> Cell:
  return _cell(method, f'--compression.density {density}{more}')


def _greedylore(rank: int) -> Cell:
  return _cell(
    'greedylore',
    f'--compression.rank {rank} --compression.factor_dtype int8'
    ' --compression.dense_dtype int8',
  )


def _quantize(every: int) -> Cell:
  return _cell('quantize', f'--compression.bits 2 --local.every {every}')


_ROUNDS = ' --local.every 4'

CELLS = [
  _cell('dense'),
  _chunks(148),
  _powersgd(29),
  _density('threshold_top_k', 0.011),
  _density('count_sketch', 0.012),
  _density('frugal', 0.016),
  _chunks(25),
  _powersgd(5),
  _chunks(100, _ROUNDS),
  _quantize(7),
  _powersgd(22, _ROUNDS),
  _density('threshold_top_k', 0.0022),
  _density('count_sketch', 0.0022),
  _greedylore(21),
  _density('sketched_amsgrad', 0.012),
  _chunks(56),
  _powersgd(11),
  _quantize(4),
  _greedylore(6),
  _density('top_k', 0.0188),
  _chunks(148, ' --compression.transform dct'),
  _quantize(1),
  _chunks(300),
  _powersgd(60),
  _density('threshold_top_k', 0.0223),
  _density('count_sketch', 0.024),
  _density('frugal', 0.066),
  _density('sketched_amsgrad', 0.0022),
]
