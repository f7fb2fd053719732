"""Every method of the library on the same small LLaMA, at the same bytes.

What it shows: 0.86M parameters, 4 simulated workers, 1,500 steps of 1,024 bytes
of the Python standard library; what each method reaches when all send as many
times fewer bytes than dense AdamW over the whole run.

Command: make experiments; one run is python -m train configs/family.py.
Cost: two to three minutes a run on two cores.
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
  model=Model(width=128, layers=4, heads=4, feed_forward=344),
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
