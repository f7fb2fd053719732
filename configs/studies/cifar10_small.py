"""The paper's experiment with CIFAR-10 in small: a ResNet-8 for two cores.

What it shows: the protocol of `configs/greedylore/cifar.py` in proportion:
78,000 parameters, 4 simulated workers x 32 images, crop and flip, AdamW with a
cosine; 1,000 steps, the first 32 of them dense, and a refresh every 48. Stages
are 16, 32 and 64 channels wide instead of 64 to 512, so ranks 16, 4 and 2 here
correspond to ranks 64, 16 and 8 there.

Command: python -m train.prepare cifar10, then `make cifar10` for three seeds of
  all methods, or python -m train configs/studies/cifar10_small.py for one run.
Cost: 5 to 7 minutes a run on two cores that share the machine with another run.
Results: dense 65.6 %, PowerSGD r = 16 65.6 %, GreedyLore r = 16 64.9 %, r = 4
  62.9 % and without error feedback 54.4 %; all in experiments/cifar10_small.
"""

from train.config.schema import *

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
