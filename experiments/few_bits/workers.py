"""Does the precision of few bits depend on the number of workers?

The same batch of 32 short sequences is divided over 4 to 32 workers, so that
dense averaging is the same run for all of them.
"""

from experiments.simulated.cells import Cell

_EVERY_STEP = '--compression.rank 22'
_ROUNDS = f'{_EVERY_STEP} --local.every 4'
_RATE = 2e-3


def _cell(workers: int, sent: str) -> Cell:
  words = (
    f'--mesh.replica {workers} --batch_size 32 --data.sequence_length 64'
    ' --steps 250 --compression.start_step 0 --model.scan True'
    f' {sent}'
  )
  return Cell(words, (_RATE,))


CELLS = [
  _cell(4, '--compression.method dense'),
  *(
    _cell(workers, f'{sent} --compression.factor_dtype int{bits}')
    for sent in (_EVERY_STEP, _ROUNDS)
    for workers in (4, 16, 32, 8)
    for bits in (8, 4, 2)
  ),
  *(_cell(workers, _EVERY_STEP) for workers in (4, 32)),
]
