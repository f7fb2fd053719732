"""A LLaMA of 4.1M parameters on hosts with slow links: loss against time.

What it shows: what compression is worth where the workers are separate machines
and the 16 MB of gradients per step take longer to send than to compute: 50
Mbit/s to 1 Gbit/s, 2 and 4 hosts, 300 steps of 1,024 bytes of the Python
standard library; dense against GreedyLore with r = 8 and r = 32, and PowerSGD
with 8-bit factors. Embedding and head are compressed, too.

Command: python -m benchmarks.network.time_to_loss; one run is python -m train
  configs/studies/time_to_loss.py --distributed.* on each host.
Cost: ten minutes a run on two busy cores; needs root and iproute2.
Results: experiments/time_to_loss.
"""

from train.config.schema import *

config = Config(
  steps=300,
  batch_size=8,
  data=Data(source='python-stdlib', tokenizer='bytes', sequence_length=128),
  model=Model(width=256, layers=5, heads=4, feed_forward=688),
  optimizer=Optimizer(name='adamw', learning_rate=1.5e-3),
  compression=Compression(
    method='greedylore',
    rank=32,
    update_interval=45,
    start_step=20,
    embeddings=True,
  ),
  evaluation=Evaluation(every=30, sequences=64),
  checkpoint=Checkpoint(every=0),
  log=Log(every=1, tensorboard=False, diagnostics=False),
)
