"""ResNet-18 on CIFAR with GreedyLore (arXiv 2507.08784, section VII).

Protocol: a ResNet-18 with the stem for CIFAR, 40 epochs = 15,640 steps of
4 workers x 32 images, crop and flip, AdamW with a cosine, rank 64.

Command: python -m train.prepare cifar10, then
  python -m train configs/greedylore/cifar.py:10
  --compression.method dense --workdir ANOTHER is the baseline.
Hardware: 4 GPUs, or one with --mesh.replica 1 (a single worker sends nothing,
  and a batch norm sees 128 images instead of 32). Not for CPUs.
Published numbers are of a reproduction with Muon as the optimizer.
Our numbers: none at full length; configs/studies/cifar10_small.py is the same
  protocol for two cores.
Deviations: the learning rate is not given, 1e-3 is a guess; statistics of batch
  norms come from 16 training batches at each evaluation instead of running
  means.
"""

from train.config.schema import *

base = Config(
  steps=15_640,
  batch_size=128,
  data=Data(crop=4, flip=True),
  model=Model(name='resnet18', width=64),
  optimizer=Optimizer(name='adamw', learning_rate=1e-3),
  compression=Compression(method='greedylore', rank=64),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=391, sequences=0),
  checkpoint=Checkpoint(every=1955),
)

variants = {
  '10': dict(
    about='CIFAR-10, 11.17M parameters, compressed from step 500, refresh every'
    ' 750; published accuracy: dense 94.43 %, r = 64 94.29 %',
    data=dict(source='cifar10'),
    compression=dict(update_interval=750, start_step=500),
  ),
  '100': dict(
    about='CIFAR-100, 11.22M parameters, compressed from step 4,000, refresh'
    ' every 1,200; published accuracy: dense 75.91 %, r = 64 74.94 %',
    data=dict(source='cifar100'),
    compression=dict(update_interval=1200, start_step=4000),
  ),
}
