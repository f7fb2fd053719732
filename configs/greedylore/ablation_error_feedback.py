"""Without error feedback: LLaMA 350M on C4 with GreedyLore, rank 32.

What it reproduces: the ablation of error feedback of GreedyLore (arXiv
2507.08784): the protocol of `llama_350m.py`, in which what is not sent is lost.

Command: python -m train configs/greedylore/ablation_error_feedback.py, with the
  data of `llama_350m.py`; --compression.error_feedback True is what it is
  compared with, and --compression.method fixed_subspace stands for GaLore.
Hardware: GPUs or TPUs with bfloat16. Our number: not run at this size;
  0.86M parameters: 'Ablations' in EXPERIMENTS.md.
"""

from train.config.schema import Checkpoint
from train.config.schema import Compression
from train.config.schema import Config
from train.config.schema import Data
from train.config.schema import Evaluation
from train.config.schema import Model
from train.config.schema import Optimizer

config = Config(
  steps=60_000,
  batch_size=512,
  data=Data(
    source='c4/en',
    stream=True,
    max_bytes=10_000_000,
    tokenizer='data/t5.model',
    sequence_length=256,
  ),
  model=Model(
    width=1024,
    layers=24,
    heads=16,
    feed_forward=2736,
    dtype='bfloat16',
    remat=True,
  ),
  optimizer=Optimizer(learning_rate=0.0015, weight_decay=0.0),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
  compression=Compression(
    rank=32, update_interval=200, start_step=1000, error_feedback=False
  ),
)
