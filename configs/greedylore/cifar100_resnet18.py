"""GreedyLore on CIFAR-100: ResNet-18 with the stem of CIFAR, 11.22M parameters.

What it reproduces: section VII of arXiv 2507.08784, 40 epochs = 15,640 steps of
4 workers x 32 images, crop and flip, AdamW with cosine, rank 64, compression
from step 4,000, a refresh every 1,200.

Command: python -m train.prepare cifar100, and then
  python -m train configs/greedylore/cifar100_resnet18.py
  --compression.method dense --workdir ANOTHER is the baseline.
Hardware: 4 GPUs, or one with --mesh.replica 1 (a single worker: nothing is
  sent, and a batch norm sees 128 images rather than 32). Not for CPUs.
Published: dense 75.91 %, GreedyLore r = 64 74.94 % (a reproduction, Muon).
Ours: not run at full length.
Deviations: the learning rate is not given, 1e-3 is a guess; statistics of batch
  norms are taken from 16 training batches at each evaluation rather than from
  running means.
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
  steps=15_640,
  batch_size=128,
  data=Data(source='cifar100', crop=4, flip=True),
  model=Model(name='resnet18', width=64),
  optimizer=Optimizer(name='adamw', learning_rate=1e-3),
  compression=Compression(
    method='greedylore', rank=64, update_interval=1200, start_step=4000
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=391, sequences=0),
  checkpoint=Checkpoint(every=1955),
)
