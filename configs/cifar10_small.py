"""A small residual network on CIFAR-10: the papers' image experiment in small.

What it reproduces: the protocol of `greedylore/cifar10_resnet18.py` on two
cores, in proportion: 78,000 parameters, 4 simulated workers x 32 images, crop
and flip, AdamW with cosine; 1,000 steps, of which 32 dense, a refresh every 48.
Stages are 16, 32 and 64 channels wide rather than 64 to 512, so a rank of 16
is to the first of them what 64 is there, and 4 and 2 what 16 and 8 are.

Command: python -m train.prepare cifar10, and then `make cifar10`: three seeds
  of all methods; python -m train configs/cifar10_small.py is one run.
Cost: 5 to 7 minutes a run on two cores beside another.
Results: dense 65.6 %, PowerSGD r = 16 65.6 %, GreedyLore r = 16 64.9 %, r = 4
  62.9 % and without error feedback 54.4 %; EXPERIMENTS.md has all.
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
  steps=1000,
  batch_size=128,
  data=Data(source='cifar10', crop=4, flip=True),
  model=Model(name='resnet8', width=16),
  optimizer=Optimizer(name='adamw', learning_rate=5e-3, weight_decay=1e-2),
  compression=Compression(
    method='greedylore', rank=16, update_interval=48, start_step=32
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=250, sequences=0),
  checkpoint=Checkpoint(every=500, keep=1),
  log=Log(tensorboard=False),
)
