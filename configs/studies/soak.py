"""A tiny model for very many steps, to see what only time shows.

What it shows: 10,000 steps on 4 processes with a checkpoint every 500: memory
use is constant, parameters stay equal on all processes, errors do not grow.

Command: make soak
Cost: about ten minutes on two cores.
Results: experiments/soak.
"""

from train.config.schema import *

config = Config(
  steps=10_000,
  batch_size=4,
  data=Data(source='python-stdlib', tokenizer='bytes', sequence_length=32),
  model=Model(width=32, layers=1, heads=2, feed_forward=64),
  optimizer=Optimizer(name='adamw', learning_rate=1e-3),
  compression=Compression(
    method='greedylore',
    rank=4,
    update_interval=200,
    start_step=20,
    embeddings=True,
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=0, sequences=64),
  checkpoint=Checkpoint(every=500, keep=2),
  log=Log(every=50, tensorboard=False),
)
