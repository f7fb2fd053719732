"""Greedy against random directions: LLaMA 130M on C4, rank 32.

What it reproduces: the ablation of the projection of GreedyLore (arXiv
2507.08784): the protocol of `llama_130m.py`, in which r of the basis'
directions are drawn at random in every step rather than chosen by their scores.

Command: python -m train configs/greedylore/ablation_projection.py, with the
  data of `llama_130m.py`; --compression.method greedylore is what it is
  compared with, --compression.start_step 0 has both from the first step on.
Hardware: GPUs or TPUs with bfloat16. Our number: not run at this size;
  a small model is in EXPERIMENTS.md, 'Ablations'.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=20_000,
  batch_size=512,
  data=Data(
    source='c4/en',
    stream=True,
    max_bytes=10_000_000,
    tokenizer='data/t5.model',
    sequence_length=256,
  ),
  model=Model(
    width=768, layers=12, heads=12, feed_forward=2048, dtype='bfloat16'
  ),
  optimizer=Optimizer(learning_rate=0.0025, weight_decay=0.0),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
  compression=Compression(
    method='random_subspace', rank=32, update_interval=200, start_step=1000
  ),
)
