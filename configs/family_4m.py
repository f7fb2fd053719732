"""The front-runners of the family on a LLaMA five times as large.

What it shows: whether the order of `configs/family.py` holds at 4.1M
parameters: the same data, steps, workers and refreshes.

Command: make experiments; one run is python -m train configs/family_4m.py.
Cost: a quarter of an hour a run on two cores, or more beside other work.
Expected: see EXPERIMENTS.md, 'The family'.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Log
from train.config.schema import Mesh
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=1500,
  batch_size=4,
  data=Data(source='python-stdlib', tokenizer='bytes', sequence_length=256),
  model=Model(width=256, layers=5, heads=4, feed_forward=688),
  optimizer=Optimizer(name='adamw', learning_rate=2e-3),
  compression=Compression(
    method='powersgd',
    rank=16,
    update_interval=100,
    start_step=45,
    embeddings=True,
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=250, sequences=256),
  checkpoint=Checkpoint(every=750, keep=1),
  log=Log(tensorboard=False),
)
