"""The training runs of the study of GreedyLore, most important first.

Each rank is the largest with which a run sends at most a tenth, or a fourth,
of the bytes of dense averaging. The learning rate is the one that is best for
dense AdamW; some cells have half of it. The last cells ask what Adam's second
moment and rounds of local steps change: momentum SGD at rates of its own, and
rounds of four at a fortieth of the bytes.
"""

from experiments.simulated.cells import Cell

_RATE, _HALF = (2e-3,), (1e-3,)
_SGD_RATES = 0.03, 0.1, 0.3, 1.0


def _cell(method: str, words: str = '') -> Cell:
  return Cell(
    f'--compression.method {method} {words} --compression.start_step 0'
    ' --mesh.replica 4 --batch_size 4 --steps 500 --model.scan True',
    _RATE,
  )


def _powersgd(rank: int, bits: int) -> Cell:
  return _cell('powersgd', f'--compression.rank {rank}{_in(bits)}')


def _greedylore(
  rank: int, bits: int, every: int = 100, basis_size: int = 0
) -> Cell:
  size = f' --compression.basis_size {basis_size}' if basis_size else ''
  words = f'--compression.rank {rank} --compression.update_interval {every}'
  return _cell('greedylore', f'{words}{size}{_in(bits)}')


def _past_sketches(rank: int, bits: int) -> Cell:
  return _cell('past_sketches', f'--compression.rank {rank}{_in(bits)}')


def _in(bits: int) -> str:
  kind = f'int{bits}'
  if bits == 32:
    return ''
  return f' --compression.factor_dtype {kind} --compression.dense_dtype {kind}'


def _with_sgd(cell: Cell) -> Cell:
  words = f'{cell.overrides} --optimizer.name sgd --optimizer.momentum 0.9'
  return cell._replace(overrides=words, rates=_SGD_RATES, seeds=1)


def _in_rounds(cell: Cell) -> Cell:
  words = f'{cell.overrides} --local.every 4'
  return cell._replace(overrides=words, seeds=1)


CELLS = [
  _cell('dense')._replace(seeds=3),
  _greedylore(9, 32),
  _powersgd(8, 32)._replace(seeds=3),
  _greedylore(46, 8)._replace(seeds=3),
  _powersgd(31, 8)._replace(seeds=3),
  _greedylore(93, 4),
  _powersgd(61, 4),
  _greedylore(23, 8, 2, 46),
  _greedylore(6, 32, 2, 12),
  _greedylore(28, 32),
  _powersgd(20, 32)._replace(seeds=3),
  _greedylore(46, 8, 200),
  _greedylore(39, 8, 10, 78),
  _powersgd(78, 8)._replace(seeds=3),
  _greedylore(121, 8)._replace(seeds=3),
  _greedylore(15, 32, 2, 30),
  _greedylore(42, 8, 20),
  _greedylore(46, 8)._replace(rates=_HALF),
  _powersgd(31, 8)._replace(rates=_HALF),
  _cell('dense')._replace(rates=_HALF),
  _with_sgd(_cell('dense')),
  _with_sgd(_greedylore(46, 8)),
  _with_sgd(_powersgd(31, 8)),
  _in_rounds(_greedylore(43, 8, 25)),
  _in_rounds(_powersgd(31, 8)),
  _in_rounds(_greedylore(5, 32, 25)),
  _in_rounds(_powersgd(8, 32)),
  _in_rounds(_cell('dense')),
  _with_sgd(_greedylore(9, 32)),
  _with_sgd(_powersgd(8, 32)),
  _past_sketches(38, 8)._replace(seeds=3),
  _past_sketches(9, 32)._replace(seeds=3),
  _past_sketches(24, 32)._replace(seeds=3),
  _past_sketches(95, 8)._replace(seeds=3),
  _in_rounds(_past_sketches(38, 8)),
  _with_sgd(_past_sketches(38, 8)),
]
