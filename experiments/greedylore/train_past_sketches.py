"""`python -m experiments.greedylore.train_past_sketches RANK BITS SEED`.

Trains with `PastSketches` and adds a line to past_sketches.jsonl. The trainer
has no key for this prototype, so it replaces the range finder here.
"""

import json
import pathlib
import sys
from unittest import mock

from benchmarks import machine
from experiments.greedylore import cells
from experiments.greedylore.past_sketches import PastSketches
from experiments.simulated import program, worker
import greedylore_jax as gl
from train.data import text as text_lib

_DECAY = 0.5


def main(rank: int, bits: int, seed: int) -> None:
  """Trains with half as many columns in the sketch as there are directions."""
  cell = cells.range_finder(rank, bits)
  config = worker.config_of(cell, [])
  text = text_lib.load(config.data)
  lanes = [program.Lane(cell.rates[0], seed)]
  replacement = lambda rank, warm: PastSketches(rank, -(-rank // 2), _DECAY)
  with mock.patch.object(gl, 'RangeFinder', replacement):
    (done,) = program.run(config, text, lanes).outcomes
  line = {
    'rank': rank,
    'bits': bits,
    'seed': seed,
    'loss': done.curve[-1][1],
    'times_fewer': done.times_fewer,
    'machine': machine.describe(),
  }
  print(line)
  path = pathlib.Path(__file__).with_name('past_sketches.jsonl')
  with path.open('a', encoding='utf-8') as file:
    file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
