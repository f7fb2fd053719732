"""LLaMA 130M (134.1M parameters) on C4 with TSR-Adam, rank 384.

What it reproduces: the pre-training of arXiv 2602.08007: 20,000 steps of 262K
tokens, a rate of 0.01 with a warm-up over 10 % and a cosine to 10 %, no decay,
eps 1e-6, scale 0.75; cores of 384 x 384, 96 x 96 for embedding and head; a
refresh every 100 steps, every 2 for those two.
Published: a loss of 3.36, AdamW 3.22; 58.9 MB against 438 a step on average,
  the head not counted. print(gl.plan(...)) counts it.

Command: python -m train configs/tsr/llama_130m.py --data.data_dir FOLDER
  --data.tokenizer T5.model with the data of configs/greedylore/llama_130m.py;
  on several hosts with --distributed.*. The dense run: --compression.method
  dense --workdir ANOTHER with a rate of its own.
Hardware: GPUs or TPUs with bfloat16. Our number: not run at full length.
Deviations: the head is compressed like the embedding, it is not said what the
  paper does; sketches are averaged, not bases (--compression.average bases is
  the paper's way).
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
  batch_size=1024,
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
  optimizer=Optimizer(learning_rate=0.01, weight_decay=0.0, eps=1e-6),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
  compression=Compression(
    method='tsr_adam',
    rank=384,
    update_interval=100,
    embeddings=True,
    embedding_rank=96,
    embedding_update_interval=2,
    scale=0.75,
  ),
)
