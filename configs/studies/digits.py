"""A small residual network learns scikit-learn's handwritten digits.

What it shows: image classification with compressed convolutions: 78,000
parameters, 4 simulated workers, 300 steps of 64 images of 8 x 8 pixels, as
accurate as dense averaging.

Command: python -m train configs/studies/digits.py
Cost: about a minute on two cores.
Results: experiments/digits.
"""

from train.config.schema import *

config = Config(
  steps=300,
  batch_size=64,
  data=Data(source='digits', crop=1, eval_fraction=0.2),
  model=Model(name='resnet8', width=16),
  optimizer=Optimizer(name='adamw', learning_rate=5e-3, weight_decay=1e-2),
  compression=Compression(
    method='greedylore', rank=8, update_interval=50, start_step=20
  ),
  mesh=Mesh(replica=4),
  evaluation=Evaluation(every=100, sequences=0),
  checkpoint=Checkpoint(every=150),
)
