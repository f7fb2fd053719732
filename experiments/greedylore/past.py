"""`python -m experiments.greedylore.past RANK BITS SEED`: runs PastSketches.

The trainer has no key for it, so it takes the place of the range finder. Adds a
line to past.jsonl next to this file.
"""

import json
import pathlib
import sys
import time
from unittest import mock

from experiments.greedylore import cells, informed
from experiments.simulated import program, worker
import greedylore_jax as gl
from train.data import text as text_lib

_DECAY = 0.5


def main(rank: int, bits: int, seed: int) -> None:
  """Trains with half as many columns in the sketch as there are directions."""
  cell = cells.range_finder(rank, bits)
  config = worker.config_of(cell, [])
  replaced = lambda rank, warm: informed.PastSketches(
    rank, -(-rank // 2), _DECAY
  )
  with mock.patch.object(gl, 'RangeFinder', replaced):
    (done,) = program.run(
      config, text_lib.load(config.data), [program.Lane(cell.rates[0], seed)]
    ).outcomes
  line = {
    'rank': rank,
    'bits': bits,
    'seed': seed,
    'loss': done.curve[-1][1],
    'times_fewer': done.times_fewer,
    'date': time.strftime('%Y-%m-%d'),
  }
  print(line)
  path = pathlib.Path(__file__).with_name('past.jsonl')
  with path.open('a', encoding='utf-8') as file:
    file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
