"""A small LLaMA learns Python from the sources of the standard library.

What it shows: 0.86M parameters, 4 simulated workers, 1,000 steps of 1,024
bytes; held-out loss within 5 % of dense AdamW after as many steps, with less
than a third of its bytes over the whole model and run, the dense start
included.

Command: make quickstart, or python -m train configs/quickstart.py; prefix it
  with JAX_PLATFORMS=cpu where JAX would take a GPU.
Cost: about two minutes on two cores.
Results: experiments/quickstart.
"""

from train.config.schema import *

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
