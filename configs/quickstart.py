"""A small LLaMA learns Python from the standard library's own sources.

What it shows: 0.86M parameters, 4 simulated workers, 1,000 steps of 1,024
bytes; held-out loss within 5 % of dense AdamW in the same steps, with less than
a third of its bytes over the whole model and run, the dense start included.

Command: make quickstart, or python -m train configs/quickstart.py; where JAX
  would take a GPU, with JAX_PLATFORMS=cpu in front.
Cost: about two minutes on two cores.
Expected: see EXPERIMENTS.md, 'The quickstart'.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Mesh
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=1000,
  batch_size=4,
  data=Data(source='python-stdlib', tokenizer='bytes', sequence_length=256),
  model=Model(width=128, layers=4, heads=4, feed_forward=344),
  optimizer=Optimizer(name='adamw', learning_rate=2e-3),
  compression=Compression(
    method='greedylore',
    rank=32,
    update_interval=100,
    start_step=60,
    embeddings=True,
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=250, sequences=256),
  checkpoint=Checkpoint(every=500),
)
