"""The cells of the front on English, most important first.

The model, the text and the tokenizer of `configs/studies/llama_2m.py`, with
embedding and head compressed like the rest. Each rank is the largest at which
a run sends at most a tenth, a thirtieth or a hundredth of the bytes of dense
averaging. Every inner optimizer has a grid of rates for dense averaging,
and its other rows have the middle one; rounds of Muon also have the highest.
The same tokens per step are divided over 4 or over 16 workers.
"""

from experiments.simulated.cells import Cell

_CONFIG = 'configs/studies/llama_2m.py'
_DENSE = '--compression.method dense'
_TOKENS, _FEW_TOKENS = 256, 64  # Of one of 4, or of 16, workers in a step.
_HELD_OUT = 128 * _TOKENS
_RATES = {'adamw': (1e-3, 2e-3, 4e-3), 'muon': (1e-2, 2e-2, 4e-2)}


def _cell(
  optimizer: str,
  sent: str,
  rates: tuple[float, ...] = (),
  *,
  workers: int = 4,
  seeds: int = 1,
  tokens: int = _TOKENS,
) -> Cell:
  sequences = f'--evaluation.sequences {_HELD_OUT // tokens}'
  if tokens != _TOKENS:  # Those of the configuration.
    sequences += f' --data.sequence_length {tokens}'
  words = (
    f'--optimizer.name {optimizer} --mesh.replica {workers}'
    f' --batch_size {workers} --steps 500 --model.scan True'
    f' {sequences} --compression.embeddings True'
    f' --compression.start_step 0 {sent}'
  )
  rate = _RATES[optimizer][1:2]
  return Cell(words, rates or rate, seeds, _CONFIG)


def _powersgd(rank: int, bits: int) -> str:
  precision = f'--compression.rank {rank} --compression.factor_dtype int{bits}'
  return f'--compression.method powersgd {precision}'


def _quantize(bits: int, words: str) -> str:
  return f'--compression.method quantize --compression.bits {bits} {words}'


_FRAGMENTS = '--local.fragments 4'
_FRONT = [
  ('adamw', _powersgd(25, 4)),
  ('adamw', f'{_powersgd(30, 4)} --local.every 4 {_FRAGMENTS}'),
  ('adamw', _powersgd(40, 8)),
  ('adamw', _quantize(4, '--local.every 4')),
]
_FRONT_MUON = [
  _quantize(4, '--local.every 4'),
  _quantize(2, f'--local.every 7 {_FRAGMENTS}'),
]

CELLS = [
  *(_cell(x, _DENSE, _RATES[x]) for x in _RATES),
  *(_cell(x, _DENSE, workers=1) for x in _RATES),
  *(_cell(*x) for x in _FRONT),
  *(_cell('muon', x, _RATES['muon'][1:]) for x in _FRONT_MUON),
  _cell('muon', _powersgd(40, 8)),
  # Three seeds.
  *(_cell(x, _DENSE, workers=n, seeds=3) for x in _RATES for n in (4, 1)),
  *(_cell('muon', x, (4e-2,), seeds=3) for x in _FRONT_MUON),
  *(_cell(*x, seeds=3) for x in _FRONT),
  # 16 workers.
  *(_cell('adamw', _DENSE, workers=n, tokens=_FEW_TOKENS) for n in (16, 1)),
  *(_cell(*x, workers=16, tokens=_FEW_TOKENS) for x in _FRONT),
  *(_cell('muon', _DENSE, workers=n, tokens=_FEW_TOKENS) for n in (16, 1)),
  *(
    _cell('muon', x, (4e-2,), workers=16, tokens=_FEW_TOKENS)
    for x in _FRONT_MUON
  ),
]
