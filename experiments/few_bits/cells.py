"""The cells of the study of few bits, most important first.

Every row has the learning rate that was best for its like in the study of local
updates, because this study is sized for two cores. What else there is to a
round is in the study of the front, whose runs are shorter.
"""

from experiments.simulated.cells import Cell

_DENSE = '--compression.method dense'


def _quantize(bits: int) -> str:
  return f'--compression.method quantize --compression.bits {bits}'


def _powersgd(bits: int) -> str:
  return f'--compression.rank 22 --compression.factor_dtype int{bits}'


def _rounds(every: int) -> str:
  """Plain averaging."""
  return f'--local.every {every}'


def _cell(
  sent: str,
  rates: tuple[float, ...],
  *,
  optimizer: str = 'muon',
  workers: int = 4,
  seeds: int = 1,
) -> Cell:
  words = (
    f'--optimizer.name {optimizer} --mesh.replica {workers} --batch_size'
    f' {workers} --model.scan True {sent}'
  )
  if '--compression.start_step' not in sent:
    words += ' --compression.start_step 0'
  return Cell(words, rates, seeds)


# The rates of dense Muon, of Muon in rounds, and of AdamW.
_LOW, _MIDDLE, _ADAMW = (1e-2,), (2e-2,), (2e-3,)
_Q2_7 = f'{_quantize(2)} {_rounds(7)}'
_FRAGMENTS = f'{_Q2_7} --local.fragments 4'

CELLS = [
  # What 2 bits cost, beside rows of the study of local updates.
  _cell(f'{_quantize(2)} {_rounds(10)}', _ADAMW, optimizer='adamw'),
  _cell(f'{_powersgd(2)} {_rounds(4)}', (4e-3,), optimizer='adamw'),
  _cell(_Q2_7, _MIDDLE),
  # 100 times fewer bytes, three seeds.
  _cell(_FRAGMENTS, _MIDDLE),
  _cell(_DENSE, _LOW, seeds=3),
  _cell(_Q2_7, _MIDDLE, seeds=3),
  _cell(_FRAGMENTS, _MIDDLE, seeds=3),
]
