"""LLaMA 1B (1,339.1M parameters) on C4 with TSR-Adam, rank 512.

What it reproduces: the pre-training of arXiv 2602.08007: 262K tokens a step;
how many steps is not known to us, 60,000 are a guess, a rate of 0.01 with a
warm-up over 10 % and a cosine to 10 %, no decay, eps 1e-6, scale 0.75; cores of
512 x 512, 256 x 256 for embedding and head; a refresh every 100 steps, every 2
for those two.
Published: a loss of 3.08, AdamW 2.74; 213.5 MB against 5,090 a step on average,
  the head not counted. print(gl.plan(...)) counts it.

Command: python -m train configs/tsr/llama_1b.py --data.data_dir FOLDER
  --data.tokenizer T5.model with the data of configs/greedylore/llama_1b.py; on
  several hosts with --distributed.*. The dense run: --compression.method dense
  --workdir ANOTHER with a rate of its own.
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
  steps=60_000,
  batch_size=1024,
  data=Data(
    source='c4/en',
    stream=True,
    max_bytes=10_000_000,
    tokenizer='data/t5.model',
    sequence_length=256,
  ),
  model=Model(
    width=2048,
    layers=24,
    heads=32,
    feed_forward=5461,
    dtype='bfloat16',
    remat=True,
  ),
  optimizer=Optimizer(learning_rate=0.01, weight_decay=0.0, eps=1e-6),
  evaluation=Evaluation(every=1000),
  checkpoint=Checkpoint(every=1000),
  compression=Compression(
    method='tsr_adam',
    rank=512,
    update_interval=100,
    embeddings=True,
    embedding_rank=256,
    embedding_update_interval=2,
    scale=0.75,
  ),
)
